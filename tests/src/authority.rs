//! A throwaway certificate authority: made at a test's start, gone at its end.

use std::sync::Arc;

use kwik_tokio::{SpkiHash, spki_hash};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};

/// Signs servers' certificates; its clients trust nothing else.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

/// Proof of a server's name: certificate and key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The name that the certificate is valid for.
    pub name: String,
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Hash of its public key.
    pub key: SpkiHash,
    /// A TLS configuration that shows it.
    pub tls: rustls::ServerConfig,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// Makes an authority that nobody has heard of.
    #[must_use]
    pub fn new() -> Self {
        Self::with_provider(ring::default_provider())
    }

    /// As [`Self::new`]; its servers and clients use `provider` for their cryptography.
    #[must_use]
    pub fn with_provider(provider: CryptoProvider) -> Self {
        let key = KeyPair::generate().expect("keys can be made");
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("the key signs").der().clone();
        Self { issuer: Issuer::new(params, key), certificate, provider: Arc::new(provider) }
    }

    /// Returns its own certificate, which whoever trusts it must have.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Makes a key and a certificate for a server called `name`.
    #[must_use]
    pub fn issue(&self, name: &str) -> Identity {
        self.issue_with(name, WebPkiClientVerifier::no_client_auth())
    }

    /// Makes a key and a certificate for a server called `name` that asks its clients for theirs.
    #[must_use]
    pub fn issue_curious(&self, name: &str) -> Identity {
        let roots = Arc::new(self.roots());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, self.provider.clone())
            .allow_unauthenticated()
            .build()
            .expect("the authority's certificate is one");
        self.issue_with(name, verifier)
    }

    fn issue_with(&self, name: &str, verifier: Arc<dyn ClientCertVerifier>) -> Identity {
        let (certificate, secret) = self.certify(name);
        let tls = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.clone()], secret)
            .expect("key and certificate belong together");
        let key = spki_hash(&certificate).expect("a certificate");
        Identity { name: name.to_owned(), certificate, key, tls }
    }

    fn certify(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("keys can be made");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a DNS name");
        let certificate = params.signed_by(&key, &self.issuer).expect("the key signs").der().clone();
        (certificate, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        roots
    }

    /// Makes the TLS configuration of a client that trusts this authority only.
    #[must_use]
    pub fn client(&self) -> rustls::ClientConfig {
        rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3")
            .with_root_certificates(self.roots())
            .with_no_client_auth()
    }

    /// Makes the TLS configuration of a client that has a certificate of its own, for `name`.
    #[must_use]
    pub fn client_called(&self, name: &str) -> rustls::ClientConfig {
        let (certificate, secret) = self.certify(name);
        rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3")
            .with_root_certificates(self.roots())
            .with_client_auth_cert(vec![certificate], secret)
            .expect("key and certificate belong together")
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}
