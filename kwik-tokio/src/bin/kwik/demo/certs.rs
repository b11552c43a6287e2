//! A certificate authority for one run of the demo: made at its start, gone at its end.

use std::sync::Arc;

use kwik_tokio::{SpkiHash, spki_hash};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    version::TLS13,
};

use crate::failure::Failure;

/// Signs the servers' certificates; the client trusts nothing else.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

/// Proof of a server's name: certificate and key.
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) certificate: CertificateDer<'static>,
    /// Hash of its public key.
    pub(super) key: SpkiHash,
    pub(super) tls: rustls::ServerConfig,
}

impl Authority {
    pub(super) fn new() -> Result<Self, Failure> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).map_err(failed)?.der().clone();
        let provider = Arc::new(ring::default_provider());
        Ok(Self { issuer: Issuer::new(params, key), certificate, provider })
    }

    /// Makes a key and a certificate for the server called `name`.
    pub(super) fn issue(&self, name: String) -> Result<Identity, Failure> {
        let key = KeyPair::generate().map_err(failed)?;
        let params = CertificateParams::new(vec![name.clone()]).map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?.der().clone();
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let tls = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(failed)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], secret)
            .map_err(failed)?;
        let key = spki_hash(&certificate).ok_or_else(|| failed("the certificate does not parse"))?;
        Ok(Identity { name, certificate, key, tls })
    }

    /// Makes the TLS configuration of a client that trusts this authority only.
    pub(super) fn client(&self) -> Result<rustls::ClientConfig, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).map_err(failed)?;
        Ok(rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(failed)?
            .with_root_certificates(roots)
            .with_no_client_auth())
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::run(format!("cannot make the demo's certificates: {error}"))
}
