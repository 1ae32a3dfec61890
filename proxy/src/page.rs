//! The page that a person sees when a URL leads nowhere: self-contained, in plain words, without the token.

use http::StatusCode;

/// `message` and `id` may hold anything; both are escaped.
pub fn render(status: StatusCode, message: &str, retry: bool, id: &str) -> String {
    let (title, advice) = match status {
        StatusCode::GONE => {
            ("This link leads nowhere any more", "Go back to where you found it and open it again.")
        }
        StatusCode::NOT_FOUND => ("Nothing is there", "Go back to where you found it and open it again."),
        StatusCode::FORBIDDEN => {
            ("This link belongs to another address", "Go back to where you found it and open it again.")
        }
        _ if retry => ("Not there yet", "Reload this page in a moment."),
        _ => (
            "This did not work",
            "Go back and try again. If it stays like this, tell whoever runs this site.",
        ),
    };
    let message = escape(&sentence(message));
    let id = escape(id);
    let status = status.as_u16();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><meta name=\"referrer\" content=\"no-referrer\">\
         <title>{title}</title><style>{STYLE}</style></head>\n\
         <body><main><h1>{title}</h1><p>{message}</p><p>{advice}</p>\
         <p class=\"small\">Error {status}, number {id}</p></main></body></html>\n"
    )
}

const STYLE: &str = ":root{color-scheme:light dark;font:1rem/1.6 system-ui,sans-serif}\
body{margin:0;min-height:100vh;display:grid;place-items:center;background:#f6f7f9;color:#1c2430}\
main{max-width:32rem;padding:2rem}h1{font-size:1.5rem;line-height:1.25}.small{color:#5b6675;font-size:.85rem}\
@media(prefers-color-scheme:dark){body{background:#14181f;color:#e6eaf0}.small{color:#98a3b3}}";

/// A fragment as a sentence: a capital first, a full stop last.
fn sentence(fragment: &str) -> String {
    let mut chars = fragment.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_elsewhere_is_text() {
        let page = render(StatusCode::GONE, "ended (<script>&\"x\")", false, "1<2");
        assert!(page.contains("Ended (&lt;script&gt;&amp;&quot;x&quot;)."), "{page}");
        assert!(page.contains("number 1&lt;2"));
        assert!(page.contains("prefers-color-scheme:dark"));
        assert!(!page.contains("http"), "nothing is loaded from elsewhere");
    }
}
