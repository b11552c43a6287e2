//! Certificates for servers that exist only here, made once per process.

use std::sync::{Arc, OnceLock};

use rustls::{RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The name on the certificate.
pub(crate) const NAME: &str = "server.test";

struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        // Of a kind whose signatures are all of one length: what an input does to a datagram must not depend on luck.
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("ring makes them");
        let params = rcgen::CertificateParams::new([NAME.to_owned()]).expect("a valid name");
        let certificate = params.self_signed(&key).expect("the key is its own");
        let key_der = PrivatePkcs8KeyDer::from(key.serialize_der());
        Identity { certificate: certificate.der().clone(), key: key_der }
    })
}

/// The certificate that [`server`] shows.
pub(crate) fn certificate() -> &'static CertificateDer<'static> {
    &identity().certificate
}

/// TLS of a server.
pub(crate) fn server() -> rustls::ServerConfig {
    let Identity { certificate, key } = identity();
    rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], PrivateKeyDer::Pkcs8(key.clone_key()))
        .expect("the key is the certificate's")
}

/// TLS of a client that trusts [`server`] and nobody else.
pub(crate) fn client() -> rustls::ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate().clone()).expect("parses");
    rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
