//! What a layer does with a response whose type it does not know.

use std::convert::Infallible;

use backstop_core::{Http, Responses, Typed};
use bytes::Bytes;
use http::{Extensions, Response, StatusCode, Version, response::Parts};
use http_body::Body;
use http_body_util::Full;

/// As a user would write it: nothing but what the trait demands.
struct Own;

impl Responses<Response<Full<Bytes>>> for Own {
    type Head = Parts;
    type Body = Full<Bytes>;
    type With<B> = (Parts, Option<B>);

    fn split(response: Response<Full<Bytes>>) -> (Parts, Option<Full<Bytes>>) {
        let (head, body) = response.into_parts();
        // One without content has no body here.
        let has_body = head.status != StatusCode::NO_CONTENT;
        (head, has_body.then_some(body))
    }

    fn join<B>(head: Parts, body: Option<B>) -> (Parts, Option<B>) {
        (head, body)
    }

    fn extensions(head: &Parts) -> Option<&Extensions> {
        Some(&head.extensions)
    }

    fn extensions_mut(head: &mut Parts) -> Option<&mut Extensions> {
        Some(&mut head.extensions)
    }

    fn mark_final(_: &mut Parts) {}
}

#[derive(Clone, Debug, PartialEq)]
struct Mark(u8);

fn response(status: StatusCode) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .version(Version::HTTP_2)
        .header("x-request-id", "7")
        .extension(Mark(7))
        .body(Full::new(Bytes::from_static(b"whole")))
        .expect("it is one")
}

fn is_all_there(head: &Parts, status: StatusCode) {
    assert_eq!((head.status, head.version), (status, Version::HTTP_2));
    assert_eq!(head.headers.len(), 1);
    assert_eq!(head.headers["x-request-id"], "7");
    assert_eq!(head.extensions.get(), Some(&Mark(7)));
}

#[test]
fn mapping_the_body_of_an_http_response_keeps_its_head() {
    for status in [StatusCode::OK, StatusCode::BAD_GATEWAY] {
        let mapped = Http::map_body(response(status), |body| ("wrapped", body));
        let (head, (wrapped, body)) = mapped.into_parts();
        is_all_there(&head, status);
        assert_eq!((wrapped, body.size_hint().exact()), ("wrapped", Some(5)));
        // It is what taking it apart and putting it together would be.
        let (head, body) = Http::split(response(status));
        let joined = <Http as Responses<Response<Full<Bytes>>>>::join(head, body);
        is_all_there(&joined.into_parts().0, status);
    }
}

#[test]
fn a_protocol_of_ones_own_maps_the_body_if_there_is_one() {
    let (head, body) = Own::map_body(response(StatusCode::OK), |body| body.size_hint().exact());
    is_all_there(&head, StatusCode::OK);
    assert_eq!(body, Some(Some(5)));
    let (head, body) = Own::map_body(response(StatusCode::NO_CONTENT), |_| {
        unreachable!("there is none")
    });
    let body: Option<Infallible> = body;
    is_all_there(&head, StatusCode::NO_CONTENT);
    assert!(body.is_none());
}

#[test]
fn a_typed_response_has_no_body_to_map() {
    let answer = <Typed as Responses<_>>::map_body("an answer", |_| -> Infallible {
        unreachable!("there is none")
    });
    assert_eq!(answer, "an answer");
}
