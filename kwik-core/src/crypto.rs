//! TLS settings by quinn's names, and what else of cryptography an application may hold or implement.
//!
//! KWIK's TLS is rustls's: it sets the protocol name, turns early data off, and binds tickets to the TLS exporter.

pub use crate::quic::crypto::{
    AeadKey, CryptoError, ExportKeyingMaterialError, HandshakeTokenKey, HeaderKey, HmacKey, KeyPair, Keys,
    PacketKey, Session, UnsupportedVersion,
};

/// TLS settings of a client.
pub trait ClientConfig: Send + Sync {
    /// Returns them as rustls's.
    fn rustls(&self) -> &rustls::QuicClientConfig;
}

/// TLS settings of a server.
pub trait ServerConfig: Send + Sync {
    /// Returns them as rustls's.
    fn rustls(&self) -> &rustls::QuicServerConfig;
}

/// TLS by rustls.
pub mod rustls {
    use std::{fmt, sync::Arc};

    use ::rustls::{
        CipherSuite, RootCertStore,
        client::{VerifierBuilderError, WebPkiServerVerifier},
        crypto::CryptoProvider,
    };
    use bytes::Bytes;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};

    pub use crate::quic::crypto::NoInitialCipherSuite;
    use crate::{error::ConfigError, limits, quic};

    /// Results of a handshake, as [`Connection::handshake_data`](crate::driver) gives them.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct HandshakeData {
        /// The application protocol both ends named, if both named any; carried in the hello.
        pub protocol: Option<Vec<u8>>,
        /// The name the client asked for (servers only).
        pub server_name: Option<String>,
    }

    /// A rustls configuration that can be used for KWIK: the ALPN list has become the application's own, carried in the hello.
    /// Early data is off, whatever the configuration said. Spec: RATIONALE §9.
    #[derive(Clone)]
    pub struct QuicClientConfig {
        tls: Arc<::rustls::ClientConfig>,
        app_protocols: Vec<Bytes>,
    }

    impl QuicClientConfig {
        /// Trusts the certificates that `roots` vouch for.
        pub(crate) fn with_roots(roots: Arc<RootCertStore>) -> Result<Self, VerifierBuilderError> {
            let provider = provider();
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build()?;
            Ok(Self::with_verifier(provider, verifier))
        }

        fn with_verifier(provider: Arc<CryptoProvider>, verifier: Arc<WebPkiServerVerifier>) -> Self {
            let builder = ::rustls::ClientConfig::builder_with_provider(provider);
            let mut tls = builder
                .with_protocol_versions(&[&::rustls::version::TLS13])
                .expect("the provider was chosen for its TLS 1.3 suites")
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth();
            let app_protocols = take_protocols(&mut tls.alpn_protocols);
            Self { tls: Arc::new(tls), app_protocols }
        }

        /// Trusts the certificates that the operating system does.
        #[cfg(feature = "platform-verifier")]
        pub(crate) fn with_platform_verifier() -> Result<Self, ::rustls::Error> {
            use rustls_platform_verifier::BuilderVerifierExt as _;
            let builder = ::rustls::ClientConfig::builder_with_provider(provider());
            let builder = builder.with_protocol_versions(&[&::rustls::version::TLS13])?;
            let mut tls = builder.with_platform_verifier()?.with_no_client_auth();
            let app_protocols = take_protocols(&mut tls.alpn_protocols);
            Ok(Self { tls: Arc::new(tls), app_protocols })
        }

        pub(crate) fn tls(&self) -> &Arc<::rustls::ClientConfig> {
            &self.tls
        }

        pub(crate) fn app_protocols(&self) -> &[Bytes] {
            &self.app_protocols
        }
    }

    impl TryFrom<Arc<::rustls::ClientConfig>> for QuicClientConfig {
        type Error = NoInitialCipherSuite;

        fn try_from(tls: Arc<::rustls::ClientConfig>) -> Result<Self, NoInitialCipherSuite> {
            Arc::unwrap_or_clone(tls).try_into()
        }
    }

    impl TryFrom<::rustls::ClientConfig> for QuicClientConfig {
        type Error = NoInitialCipherSuite;

        fn try_from(mut tls: ::rustls::ClientConfig) -> Result<Self, NoInitialCipherSuite> {
            let app_protocols = take_protocols(&mut tls.alpn_protocols);
            tls.enable_early_data = false;
            let tls = Arc::new(tls);
            quic::check_client_tls(tls.clone())?;
            Ok(Self { tls, app_protocols })
        }
    }

    impl super::ClientConfig for QuicClientConfig {
        fn rustls(&self) -> &QuicClientConfig {
            self
        }
    }

    impl fmt::Debug for QuicClientConfig {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("QuicClientConfig")
                .field("app_protocols", &self.app_protocols)
                .finish_non_exhaustive()
        }
    }

    /// A rustls configuration that can be used for KWIK: the ALPN list has become the application's own, matched against the
    /// hello. Early data is refused, whatever the configuration said: it can be replayed. Spec: RATIONALE §9.
    #[derive(Clone)]
    pub struct QuicServerConfig {
        tls: Arc<::rustls::ServerConfig>,
        app_protocols: Vec<Bytes>,
    }

    impl QuicServerConfig {
        /// Shows one certificate to all.
        pub(crate) fn with_single_cert(
            chain: Vec<CertificateDer<'static>>,
            key: PrivateKeyDer<'static>,
        ) -> Result<Self, ::rustls::Error> {
            let builder = ::rustls::ServerConfig::builder_with_provider(provider());
            let builder = builder.with_protocol_versions(&[&::rustls::version::TLS13])?.with_no_client_auth();
            let tls = builder.with_single_cert(chain, key)?;
            tls.try_into().map_err(|error: NoInitialCipherSuite| ::rustls::Error::General(error.to_string()))
        }

        pub(crate) fn tls(&self) -> &Arc<::rustls::ServerConfig> {
            &self.tls
        }

        pub(crate) fn app_protocols(&self) -> &[Bytes] {
            &self.app_protocols
        }
    }

    impl TryFrom<Arc<::rustls::ServerConfig>> for QuicServerConfig {
        type Error = NoInitialCipherSuite;

        fn try_from(tls: Arc<::rustls::ServerConfig>) -> Result<Self, NoInitialCipherSuite> {
            Arc::unwrap_or_clone(tls).try_into()
        }
    }

    impl TryFrom<::rustls::ServerConfig> for QuicServerConfig {
        type Error = NoInitialCipherSuite;

        fn try_from(mut tls: ::rustls::ServerConfig) -> Result<Self, NoInitialCipherSuite> {
            let app_protocols = take_protocols(&mut tls.alpn_protocols);
            tls.max_early_data_size = 0;
            let tls = Arc::new(tls);
            quic::check_server_tls(tls.clone())?;
            Ok(Self { tls, app_protocols })
        }
    }

    impl super::ServerConfig for QuicServerConfig {
        fn rustls(&self) -> &QuicServerConfig {
            self
        }
    }

    impl fmt::Debug for QuicServerConfig {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("QuicServerConfig")
                .field("app_protocols", &self.app_protocols)
                .finish_non_exhaustive()
        }
    }

    /// The process's provider, as in quinn; *ring*'s where there is none, or none that QUIC can use.
    fn provider() -> Arc<CryptoProvider> {
        let usable = |provider: &&Arc<CryptoProvider>| {
            provider.cipher_suites.iter().any(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256)
        };
        let installed = CryptoProvider::get_default().filter(usable);
        installed.cloned().unwrap_or_else(|| Arc::new(::rustls::crypto::ring::default_provider()))
    }

    /// Moves the application's protocols out of a TLS configuration and puts KWIK's in their place.
    fn take_protocols(alpn: &mut Vec<Vec<u8>>) -> Vec<Bytes> {
        let app = std::mem::replace(alpn, vec![limits::ALPN.to_vec()]);
        // A configuration that already names KWIK only, as one used before, carries no application protocol.
        app.into_iter().filter(|name| name != limits::ALPN).map(Bytes::from).collect()
    }

    /// Fails if the hello cannot carry such names.
    pub(crate) fn check_protocols(app: &[Bytes]) -> Result<(), ConfigError> {
        let fits = |name: &Bytes| !name.is_empty() && name.len() <= limits::APP_ALPN_LEN_MAX;
        let total: usize = app.iter().map(Bytes::len).sum();
        if app.len() > limits::APP_ALPN_MAX || total > limits::APP_ALPN_TOTAL_MAX || !app.iter().all(fits) {
            return Err(ConfigError::OutOfRange("ALPN list"));
        }
        Ok(())
    }
}
