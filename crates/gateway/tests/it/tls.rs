//! TLS to the targets.

use std::{net::SocketAddr, sync::Arc};

use backstop_testkit::model::Model;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use crate::support::{Gateway, KINDS, config};

/// A port that ends TLS in front of a model, and offers these protocols.
async fn with_tls(
    model: &Model,
    certificate: CertificateDer<'static>,
    key: &rcgen::KeyPair,
    protocols: &[&[u8]],
) -> SocketAddr {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    server.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let behind = model.addr();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us breaks off.
                let Ok(mut near) = acceptor.accept(socket).await else {
                    return;
                };
                let mut far = TcpStream::connect(behind).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_target_is_asked_by_tls_in_the_version_it_offers_if_it_is_trusted() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (certified.cert.der().clone(), certified.signing_key);
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("trusted.pem");
    std::fs::write(&trusted, certified.cert.pem()).unwrap();
    let trust = [("SSL_CERT_FILE", trusted.to_str().unwrap())];

    for (protocols, version) in [
        (&[b"h2".as_slice(), b"http/1.1"][..], http::Version::HTTP_2),
        (&[b"http/1.1"], http::Version::HTTP_11),
    ] {
        for kind in KINDS {
            let primary = Model::start("primary").await.unwrap();
            let backup = Model::start("backup").await.unwrap();
            let port = with_tls(&primary, certificate.clone(), &key, protocols)
                .await
                .port();
            let primary_url = format!("https://localhost:{port}/v1");
            let config = config(kind.word(), &primary_url, &backup.base_url());

            let gateway = Gateway::start_with(&config, &trust).await;
            let answer = gateway.ask(kind).await;
            assert_eq!(answer.text(kind), primary.text());
            assert_eq!(primary.log().last().unwrap().version, version);

            // Any other certificate than its own, so that there is something to trust.
            let other = rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap();
            let others = folder.path().join("other.pem");
            std::fs::write(&others, other.cert.pem()).unwrap();
            let distrust = [("SSL_CERT_FILE", others.to_str().unwrap())];
            let mut gateway = Gateway::start_with(&config, &distrust).await;
            let answer = gateway.ask(kind).await;
            assert_eq!(answer.text(kind), backup.text());
            assert_eq!(primary.log().len(), 1);
            let log = gateway.logged("no connection target=primary").await;
            assert!(log.contains("certificate"), "{log}");
        }
    }
}
