//! The pages on the way in to a session's host and out of it. No token is in any of them.

use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, LOCATION, SET_COOKIE};
use http::{Response, StatusCode};
use jetway_protocol::host::RESERVED;

use super::answer::own;
use super::page::{self, Referrer};
use crate::forward::response_body::ResponseBody;
use crate::route::wanted::WantedPath;

const HTML: &str = "text/html; charset=utf-8";
const NETWORK_ERROR_LOGGING: HeaderName = HeaderName::from_static("nel");
/// Takes back what an earlier session of the host may have had reported, URLs and all.
const NO_REPORTS: HeaderValue = HeaderValue::from_static("{\"max_age\":0}");
/// A page that asks something is in no frame of a stranger's.
const NO_FRAMES: HeaderValue = HeaderValue::from_static("frame-ancestors 'none'");

/// The cookies go with it.
pub fn see_other(location: &HeaderValue, cookies: &[String]) -> Response<ResponseBody> {
    let mut response = own(StatusCode::SEE_OTHER, "text/plain", Bytes::new());
    let headers = response.headers_mut();
    headers.insert(LOCATION, location.clone());
    headers.insert(NETWORK_ERROR_LOGGING, NO_REPORTS);
    set(headers, cookies);
    response
}

fn set(headers: &mut HeaderMap, cookies: &[String]) {
    for cookie in cookies.iter().filter_map(|cookie| HeaderValue::try_from(cookie.as_str()).ok()) {
        headers.append(SET_COOKIE, cookie);
    }
}

/// `link`: where a tab of its own begins.
pub fn blocked(link: &str, brand: &str) -> Response<ResponseBody> {
    let body = page::BLOCKED.replace("{link}", &page::escape(link));
    let page = page::whole("Your browser blocks the cookie", Referrer::None, "", brand, &body);
    own(StatusCode::FORBIDDEN, HTML, page.into())
}

/// `ancestors`: the pages that may have it in a frame, where they are known. The form's request
/// says where it comes from, so its page is no secret as a referrer. `stay`: the wanted page, with
/// its origin, so that no path leads to another. What the form leads to is the application's to
/// redirect: a `form-action` would end that.
pub fn confirm(
    path: &WantedPath,
    stay: &str,
    ancestors: Option<HeaderValue>,
    brand: &str,
) -> Response<ResponseBody> {
    let action = page::escape(&format!("{RESERVED}confirm?path={}", path.encoded()));
    let body = page::CONFIRM.replace("{action}", &action).replace("{stay}", &page::escape(stay));
    let page = page::whole("Open it as another user?", Referrer::Origin, "", brand, &body);
    let mut response = own(StatusCode::OK, HTML, page.into());
    let headers = response.headers_mut();
    headers.insert("referrer-policy", HeaderValue::from_static("strict-origin"));
    headers.append(CONTENT_SECURITY_POLICY, HeaderValue::from_static("base-uri 'none'"));
    headers.append(CONTENT_SECURITY_POLICY, ancestors.unwrap_or(NO_FRAMES));
    response
}

/// `brand`: `None`: no person looks at it.
pub fn left(cookies: &[String], brand: Option<&str>) -> Response<ResponseBody> {
    let mut response = match brand {
        Some(brand) => {
            let page = page::whole("You have left", Referrer::None, "", brand, &page::LEFT);
            own(StatusCode::OK, HTML, page.into())
        }
        None => own(StatusCode::NO_CONTENT, "text/plain", Bytes::new()),
    };
    set(response.headers_mut(), cookies);
    response
}

/// A page of the proxy's that goes on by itself, where it is not known whose frame it may be in.
pub fn in_no_frame(response: &mut Response<ResponseBody>) {
    response.headers_mut().append(CONTENT_SECURITY_POLICY, NO_FRAMES);
}

/// In the place of a worker's script, for a browser that has no way in any more: its worker would
/// answer from a cache for ever.
pub fn unregistering() -> Response<ResponseBody> {
    let text = include_str!("unregister.js");
    let mut response =
        own(StatusCode::OK, "text/javascript; charset=utf-8", Bytes::from_static(text.as_bytes()));
    let headers = response.headers_mut();
    headers.insert("service-worker-allowed", HeaderValue::from_static("/"));
    headers.insert("vary", HeaderValue::from_static("service-worker"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn text(response: Response<ResponseBody>) -> String {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_path_on_a_page_is_text() {
        let path = WantedPath::in_query(Some("path=/%22%3E%3Cscript%3E%26%27x"));
        let response = confirm(&path, "https://a.example/\"><script>x", None, "<b>brand</b>");
        let policies: Vec<_> = response.headers().get_all(CONTENT_SECURITY_POLICY).iter().cloned().collect();
        assert!(policies.contains(&NO_FRAMES) && response.headers()["referrer-policy"] == "strict-origin");
        let page = text(response).await;
        assert!(page.contains("<b>brand</b>") && !page.contains("<script"), "{page}");
        assert!(!page.contains("name=\"referrer\""), "a form without an origin could not be judged: {page}");
        let page = text(blocked("https://a/?x=\"><script>&", "")).await;
        assert!(page.contains("href=\"https://a/?x=&quot;&gt;&lt;script&gt;&amp;\""), "{page}");
        assert!(page.contains("name=\"referrer\""));
    }

    #[tokio::test]
    async fn a_way_on_carries_no_token() {
        let location = HeaderValue::from_static("https://sub.example.com/.jetway/entered?path=/");
        let response = see_other(&location, &["a=b".to_owned(), "c=d".to_owned()]);
        let headers = response.headers();
        assert_eq!((response.status().as_u16(), headers[LOCATION].clone()), (303, location));
        assert_eq!(headers.get_all(SET_COOKIE).iter().count(), 2);
        assert!(headers["cache-control"] == "no-store" && headers["referrer-policy"] == "no-referrer");
        assert_eq!(headers["nel"], "{\"max_age\":0}");
    }

    #[tokio::test]
    async fn who_leaves_is_told() {
        assert_eq!(left(&[], None).status(), StatusCode::NO_CONTENT);
        assert!(text(left(&[], Some(""))).await.contains("You have left"));
        let worker = unregistering();
        assert_eq!(worker.headers()["service-worker-allowed"], "/");
        assert!(text(worker).await.contains("unregister()"));
    }
}
