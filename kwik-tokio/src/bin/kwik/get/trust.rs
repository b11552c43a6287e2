//! Trust in servers' certificates.

use std::{
    collections::BTreeMap,
    fs::File,
    io::BufReader,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use kwik_tokio::{SpkiHash, spki_hash};
use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};

use crate::{
    failure::{Cause, Failure},
    protocol::ALPN,
};

/// Origin of trust in the primary.
#[derive(Clone, Debug)]
pub(super) enum Anchor<'a> {
    /// Its key is known.
    Pin(SpkiHash),
    /// An authority in a file.
    Authority(&'a Path),
    /// The authorities that this system trusts.
    System,
}

/// Decides about certificates, and keeps why it refused some.
#[derive(Debug)]
pub(super) struct Trust {
    rule: Rule,
    provider: Arc<CryptoProvider>,
    refused: Mutex<BTreeMap<String, String>>,
}

#[derive(Debug)]
enum Rule {
    Authorities(Arc<WebPkiServerVerifier>),
    /// The primary has this key. A mirror's key is named by the primary, and compared by KWIK itself: it is any that
    /// comes after the primary has shown its own.
    Pin {
        pin: SpkiHash,
        met: Mutex<bool>,
    },
}

impl Trust {
    /// Reads what is to be trusted.
    pub(super) fn new(anchor: &Anchor<'_>) -> Result<Arc<Self>, Failure> {
        let provider = Arc::new(ring::default_provider());
        let rule = match anchor {
            Anchor::Pin(pin) => Rule::Pin { pin: *pin, met: Mutex::new(false) },
            Anchor::Authority(path) => Rule::Authorities(verifier(from_file(path)?, &provider)?),
            Anchor::System => Rule::Authorities(verifier(from_system()?, &provider)?),
        };
        Ok(Arc::new(Self { rule, provider, refused: Mutex::default() }))
    }

    /// Makes the TLS configuration that asks this.
    pub(super) fn client(self: &Arc<Self>) -> Result<rustls::ClientConfig, Failure> {
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| Failure::run(format!("cannot set up TLS: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(self.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    /// Returns the certificates that were refused: the name of each server, and why.
    pub(super) fn refused(&self) -> BTreeMap<String, String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.rule {
            Rule::Authorities(verifier) => {
                verifier.verify_server_cert(certificate, intermediates, name, &[], now)
            }
            Rule::Pin { pin, met } => {
                let key = spki_hash(certificate)
                    .ok_or(rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
                let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
                *met |= key == *pin;
                if *met {
                    return Ok(ServerCertVerified::assertion());
                }
                Err(rustls::Error::General(format!("it has the key {key}, and --pin says {pin}")))
            }
        }
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(certificate, intermediates, name, now).inspect_err(|why| {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            let why = if let rustls::Error::General(why) = why { why.clone() } else { why.to_string() };
            refused.insert(name.to_str().into_owned(), why);
        })
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("QUIC has TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn verifier(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, Failure> {
    WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
        .build()
        .map_err(|error| Failure::run(format!("cannot set up TLS: {error}")))
}

fn from_file(path: &Path) -> Result<RootCertStore, Failure> {
    let fail = |why: &dyn std::fmt::Display| {
        Failure::input(format!("cannot read the certificates in {}: {why}", path.display()))
    };
    let mut file = BufReader::new(File::open(path).map_err(|error| fail(&error))?);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&mut file) {
        let certificate = certificate.map_err(|error| fail(&error))?;
        roots.add(certificate).map_err(|error| fail(&error))?;
    }
    if roots.is_empty() { Err(fail(&"there is none, in PEM")) } else { Ok(roots) }
}

/// Reads certificates in PEM.
fn certificates(
    file: &mut BufReader<File>,
) -> impl Iterator<Item = Result<CertificateDer<'static>, rustls::pki_types::pem::Error>> + '_ {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::pem_reader_iter(file)
}

fn from_system() -> Result<RootCertStore, Failure> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _unusable) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(roots);
    }
    let why = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
    Err(Failure::new(
        Cause::Untrusted,
        format!("cannot read the certificates that this system trusts: {why}"),
    )
    .remedy("name the server's key with --pin or its authority with --ca"))
}
