//! Keys and certificates in files: `kwik keygen`, and what reads what it wrote.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use kwik_tokio::{PublicKey, Signer as _, SigningKey, SpkiHash, spki_hash};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version::TLS13,
};

use crate::{failure::Failure, protocol::ALPN};

/// The key with which a primary signs tickets and jobs: its 32 secret bytes in hexadecimal digits.
const SIGNING_KEY: &str = "signing.key";
/// The key of a server's certificate.
const SERVER_KEY: &str = "server.key";
/// A server's certificate, with those that lead to its authority if there are any.
const SERVER_CERTIFICATE: &str = "server.pem";
/// The key of an authority.
const AUTHORITY_KEY: &str = "ca.key";
/// An authority's certificate.
const AUTHORITY_CERTIFICATE: &str = "ca.pem";
/// Name of the authorities made here: a certificate names its issuer, so it is the same for all.
const AUTHORITY_NAME: &str = "KWIK authority";

/// Makes keys and certificates
///
/// A primary has a signing key, which mirrors trust, and like every server a certificate, which clients trust: by an
/// authority of one's own (`kwik keygen ca`, then --ca), or by the pin that is printed. Private files can be read by their owner only, and
/// nothing is ever replaced.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  kwik keygen ca --dir ca                                      an authority of one's own
  kwik keygen primary --dir keys --name origin.example --ca ca   prints the public key for `kwik mirror --trust`
  kwik keygen mirror --dir keys --name m1.example --ca ca        prints the pin for `kwik serve --mirror`")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    /// Makes an authority that signs servers' certificates
    Ca {
        /// Directory for ca.pem, which clients are given, and ca.key
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
    },
    /// Makes a primary's keys: a signing key, and a server's key and certificate
    Primary(Server),
    /// Makes a mirror's keys: a server's key and certificate
    Mirror(Server),
}

#[derive(Clone, Debug, clap::Args)]
struct Server {
    /// Directory for the files
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,

    /// Name or address by which clients reach the server; may be given several times
    #[arg(long = "name", value_name = "HOST", required = true)]
    names: Vec<String>,

    /// Directory of the authority that signs the certificate [default: the certificate signs itself]
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,
}

/// Runs `kwik keygen`.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let said = match &args.what {
        What::Ca { dir } => make_authority(dir)?,
        What::Primary(server) => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed)
                .map_err(|error| Failure::run(format!("no random numbers: {error}")))?;
            let key = SigningKey::from_seed(seed).public_key();
            let files = server_files(server)?;
            let [server_key, certificate] = files.files;
            let secret = blake3::Hash::from_bytes(seed).to_hex().to_string();
            let signing_key = (SIGNING_KEY, Kind::Secret, secret);
            let written = write_all(&server.dir, &[signing_key, server_key, certificate])?;
            Said { written, lines: vec![("public key", key.to_string()), ("pin", files.pin.to_string())] }
        }
        What::Mirror(server) => {
            let files = server_files(server)?;
            let written = write_all(&server.dir, &files.files)?;
            Said { written, lines: vec![("pin", files.pin.to_string())] }
        }
    };
    write!(io::stdout(), "{said}")
        .map_err(|error| Failure::run(format!("cannot write what was made: {error}")))
}

/// Names of what was made, for the user.
struct Said {
    written: Vec<PathBuf>,
    lines: Vec<(&'static str, String)>,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for path in &self.written {
            writeln!(f, "{:<12}{}", "wrote", path.display())?;
        }
        self.lines.iter().try_for_each(|(what, value)| writeln!(f, "{what:<12}{value}"))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Secret,
    Public,
}

type NewFile = (&'static str, Kind, String);

struct ServerFiles {
    files: [NewFile; 2],
    pin: SpkiHash,
}

fn make_authority(dir: &Path) -> Result<Said, Failure> {
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = authority()?.self_signed(&key).map_err(failed)?;
    let files = [
        (AUTHORITY_KEY, Kind::Secret, key.serialize_pem()),
        (AUTHORITY_CERTIFICATE, Kind::Public, certificate.pem()),
    ];
    Ok(Said { written: write_all(dir, &files)?, lines: Vec::new() })
}

fn authority() -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, AUTHORITY_NAME);
    Ok(params)
}

fn server_files(server: &Server) -> Result<ServerFiles, Failure> {
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(server.names.clone())
        .map_err(|error| Failure::input(format!("--name is no host: {error}")))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, server.names.first().cloned().unwrap_or_default());
    let certificate = match &server.ca {
        Some(dir) => {
            let path = dir.join(AUTHORITY_KEY);
            let pem = fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
            let issuer = Issuer::new(
                authority()?,
                KeyPair::from_pem(&pem).map_err(|error| unreadable(&path, &error))?,
            );
            params.signed_by(&key, &issuer)
        }
        None => params.self_signed(&key),
    };
    let certificate = certificate.map_err(failed)?;
    let pin = spki_hash(certificate.der()).ok_or_else(|| failed("the certificate does not parse"))?;
    let files = [
        (SERVER_KEY, Kind::Secret, key.serialize_pem()),
        (SERVER_CERTIFICATE, Kind::Public, certificate.pem()),
    ];
    Ok(ServerFiles { files, pin })
}

/// Writes files that are not there yet; none if one is.
fn write_all(dir: &Path, files: &[NewFile]) -> Result<Vec<PathBuf>, Failure> {
    fs::create_dir_all(dir)
        .map_err(|error| Failure::run(format!("cannot make the directory {}: {error}", dir.display())))?;
    let paths: Vec<_> = files.iter().map(|(name, ..)| dir.join(name)).collect();
    if let Some(there) = paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(exists(there));
    }
    for (path, (_, kind, content)) in paths.iter().zip(files) {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        if *kind == Kind::Secret {
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        }
        let written = options.open(path).and_then(|mut file| {
            file.write_all(content.as_bytes())?;
            if content.ends_with('\n') { Ok(()) } else { file.write_all(b"\n") }
        });
        written.map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                return exists(path);
            }
            Failure::run(format!("cannot write {}: {error}", path.display()))
        })?;
    }
    Ok(paths)
}

fn exists(path: &Path) -> Failure {
    Failure::input(format!(
        "{} is there already, and keys are never replaced: remove it, or name another --dir",
        path.display()
    ))
}

fn failed(error: impl fmt::Display) -> Failure {
    Failure::run(format!("cannot make a certificate: {error}"))
}

fn unreadable(path: &Path, error: &dyn fmt::Display) -> Failure {
    Failure::input(format!("cannot read {}: {error}", path.display()))
}

/// A server's certificate and key.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) pin: SpkiHash,
    pub(crate) tls: rustls::ServerConfig,
}

/// Returns the files of a server's keys in a directory.
pub(crate) fn files(dir: &Path) -> [PathBuf; 3] {
    [SERVER_CERTIFICATE, SERVER_KEY, SIGNING_KEY].map(|name| dir.join(name))
}

/// Reads a server's key and certificate from a directory.
pub(crate) fn load_identity(dir: &Path) -> Result<Identity, Failure> {
    let path = dir.join(SERVER_CERTIFICATE);
    let chain = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| missing(&path, &error))?;
    let certificate =
        chain.first().cloned().ok_or_else(|| unreadable(&path, &"there is no certificate in it"))?;
    let pin = spki_hash(&certificate).ok_or_else(|| unreadable(&path, &"the certificate does not parse"))?;
    let key_path = dir.join(SERVER_KEY);
    let key = PrivateKeyDer::from_pem_file(&key_path).map_err(|error| missing(&key_path, &error))?;
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let mut tls = tls.map_err(|error| {
        Failure::input(format!("{} and {} do not go together: {error}", path.display(), key_path.display()))
    })?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Identity { certificate, pin, tls })
}

/// Reads a primary's signing key from a directory.
pub(crate) fn load_signing_key(dir: &Path) -> Result<SigningKey, Failure> {
    let path = dir.join(SIGNING_KEY);
    let text = fs::read_to_string(&path).map_err(|error| missing(&path, &error))?;
    let seed =
        blake3::Hash::from_hex(text.trim()).map_err(|_error| unreadable(&path, &"it is no signing key"))?;
    Ok(SigningKey::from_seed(*seed.as_bytes()))
}

fn missing(path: &Path, error: &dyn fmt::Display) -> Failure {
    Failure::input(format!("cannot read {}: {error}; `kwik keygen` makes it", path.display()))
}

/// Parses the public key of a primary.
pub(crate) fn parse_public_key(text: &str) -> Result<PublicKey, String> {
    text.parse().map_err(|error| format!("no public key, as `kwik keygen primary` prints it: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(what: What) -> Result<(), Failure> {
        run(&Args { what })
    }

    fn server(dir: &Path, ca: Option<&Path>) -> Server {
        Server {
            dir: dir.to_owned(),
            names: vec!["origin.example".into(), "127.0.0.1".into()],
            ca: ca.map(Path::to_owned),
        }
    }

    #[test]
    fn what_is_made_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, keys) = (dir.path().join("ca"), dir.path().join("a/b"));
        make(What::Ca { dir: ca.clone() }).unwrap();
        make(What::Primary(server(&keys, Some(&ca)))).unwrap();
        let identity = load_identity(&keys).unwrap();
        assert_eq!(spki_hash(&identity.certificate), Some(identity.pin));
        load_signing_key(&keys).unwrap();

        // A client that trusts the authority takes the certificate, for each name.
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca.join(AUTHORITY_CERTIFICATE)).unwrap()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = verifier.build().unwrap();
        for (name, right) in [("origin.example", true), ("127.0.0.1", true), ("other.example", false)] {
            let name = rustls::pki_types::ServerName::try_from(name).unwrap();
            let now = rustls::pki_types::UnixTime::now();
            let verified = rustls::client::danger::ServerCertVerifier::verify_server_cert(
                &*verifier,
                &identity.certificate,
                &[],
                &name,
                &[],
                now,
            );
            assert_eq!(verified.is_ok(), right, "{name:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn private_files_are_private() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        make(What::Ca { dir: dir.path().to_owned() }).unwrap();
        make(What::Primary(server(dir.path(), Some(dir.path())))).unwrap();
        for name in [SIGNING_KEY, SERVER_KEY, AUTHORITY_KEY] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn nothing_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        make(What::Mirror(server(dir.path(), None))).unwrap();
        let before = fs::read(dir.path().join(SERVER_KEY)).unwrap();
        for what in [What::Mirror(server(dir.path(), None)), What::Primary(server(dir.path(), None))] {
            let failure = make(what).unwrap_err().to_string();
            assert!(failure.contains("server.key is there already"), "{failure}");
        }
        assert_eq!(fs::read(dir.path().join(SERVER_KEY)).unwrap(), before);
        assert!(!dir.path().join(SIGNING_KEY).exists(), "half of a primary's keys was made");
    }

    #[test]
    fn what_is_wrong_with_keys_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let failure = load_identity(dir.path()).err().unwrap().to_string();
        assert!(failure.contains("server.pem") && failure.contains("keygen"), "{failure}");
        make(What::Mirror(server(dir.path(), None))).unwrap();
        let other = tempfile::tempdir().unwrap();
        make(What::Mirror(server(other.path(), None))).unwrap();
        fs::copy(other.path().join(SERVER_KEY), dir.path().join(SERVER_KEY)).unwrap();
        let failure = load_identity(dir.path()).err().unwrap().to_string();
        assert!(failure.contains("do not go together"), "{failure}");
        fs::write(dir.path().join(SIGNING_KEY), "secret").unwrap();
        assert!(load_signing_key(dir.path()).unwrap_err().to_string().contains("no signing key"));
        let failure = make(What::Mirror(server(dir.path(), Some(other.path())))).unwrap_err().to_string();
        assert!(failure.contains("ca.key"), "{failure}");
    }
}
