//! The pages that a person sees: a session that starts, and a URL that leads nowhere. Self-contained, in plain words, without the token.

use http::StatusCode;

/// What pages may load (CSP): nothing but what is in them.
pub const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The same for a page that has one script, and asks how far it is.
pub fn policy_with(nonce: &str) -> String {
    format!("{POLICY}; script-src 'nonce-{nonce}'; connect-src 'self'")
}

/// `message` and `id` may hold anything; both are escaped. `brand` is the operator's, and is not.
pub fn render(status: StatusCode, message: &str, retry: bool, id: &str, brand: &str) -> String {
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
    let (id, status) = (escape(id), status.as_u16());
    let body = format!(
        "<h1>{title}</h1><p>{message}</p><p>{advice}</p><p class=\"small\">Error {status}, number {id}</p>"
    );
    whole(title, "", brand, &body)
}

/// Shown while a session starts: it follows the start, and enters by itself.
pub fn waiting(brand: &str, nonce: &str) -> String {
    let head = "<noscript><meta http-equiv=\"refresh\" content=\"3\"></noscript>";
    let body = format!(
        "<h1 id=\"title\">Starting</h1><p id=\"stage\" role=\"status\" aria-live=\"polite\">One moment.</p>\
         <progress id=\"progress\" aria-labelledby=\"stage\"></progress><p class=\"small\" id=\"usual\">&nbsp;</p>\
         <p><button id=\"again\" hidden>Try again</button></p>\
         <noscript><p>This page looks again every 3 seconds.</p></noscript>\
         <script nonce=\"{nonce}\">{SCRIPT}</script>"
    );
    whole("Starting", head, brand, &body)
}

fn whole(title: &str, head: &str, brand: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><meta name=\"referrer\" content=\"no-referrer\">\
         <title>{title}</title><style>{STYLE}</style>{head}</head>\n<body><main>{brand}{body}</main></body></html>\n"
    )
}

const STYLE: &str = ":root{color-scheme:light dark;font:1rem/1.6 system-ui,sans-serif}\
body{margin:0;min-height:100vh;display:grid;place-items:center;background:#f6f7f9;color:#1c2430}\
main{width:min(32rem,100vw - 4rem);padding:2rem}h1{font-size:1.5rem;line-height:1.25}.small{color:#5b6675;font-size:.85rem}\
progress{width:100%;height:.5rem;accent-color:#2f6fed}\
button{font:inherit;padding:.5rem 1.25rem;border:0;border-radius:.375rem;background:#2457c5;color:#fff;cursor:pointer}\
button:focus-visible{outline:3px solid #8fb3ff;outline-offset:2px}\
@media(prefers-color-scheme:dark){body{background:#14181f;color:#e6eaf0}.small{color:#98a3b3}}";

/// Asks how far the start is, each time as soon as there is something new, and loads the page again when it is over. Words that come from
/// elsewhere are set as text.
const SCRIPT: &str = r#"(async () => {
const of = id => document.getElementById(id), pause = ms => new Promise(done => setTimeout(done, ms));
const words = {scheduled: 'Finding a place for it.', loading: 'Loading the application.', starting: 'Starting the application.', waiting: 'Waiting for the application to answer.'};
let known = '', from = Date.now(), usual = 0, over = false;
of('again').onclick = () => location.reload();
const tick = setInterval(() => { if (usual && !over) of('progress').value = Math.min(.97, (Date.now() - from) / usual); }, 250);
const fail = text => { over = true; clearInterval(tick); of('title').textContent = document.title = 'This did not start'; of('stage').textContent = text;
of('progress').hidden = true; of('usual').textContent = ''; of('again').hidden = false; of('again').focus(); };
while (!over) {
let answer, body;
try {
answer = await fetch(location.pathname + location.search, {headers: {accept: 'application/vnd.jetway.stage+json', 'x-jetway-stage': known}, cache: 'no-store'});
body = await answer.json();
} catch { of('stage').textContent = 'The connection is gone. Trying again.'; known = ''; await pause(1000); continue; }
if (!answer.ok) {
const text = body && body.message || 'something went wrong', said = text.charAt(0).toUpperCase() + text.slice(1) + '.';
if (body && body.retry_after_ms) { of('stage').textContent = said; known = ''; await pause(body.retry_after_ms); continue; }
fail(said); break; }
if (!body) continue;
if (body.status === 'ready') { over = true; of('stage').textContent = 'Ready.'; of('progress').value = 1; location.reload(); break; }
known = body.status; of('stage').textContent = words[known] || 'One moment.';
if (body.usual_ms) { usual = body.usual_ms; from = Date.now() - body.elapsed_ms;
const seconds = Math.max(1, Math.round(usual / 1000)); of('usual').textContent = 'Usually ' + (seconds === 1 ? 'a second' : seconds + ' seconds') + '.'; }
}
})();"#;

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
        let page = render(StatusCode::GONE, "ended (<script>&\"x\")", false, "1<2", "<b>brand</b>");
        assert!(page.contains("Ended (&lt;script&gt;&amp;&quot;x&quot;)."), "{page}");
        assert!(page.contains("number 1&lt;2") && page.contains("<main><b>brand</b><h1>"));
        assert!(page.contains("prefers-color-scheme:dark"));
        assert!(!page.contains("http:") && !page.contains("https:"), "nothing is loaded from elsewhere");
    }

    #[test]
    fn a_waiting_page_has_one_script_that_its_policy_knows() {
        let page = waiting("", "n0nce");
        assert_eq!(
            (page.matches("<script").count(), page.matches("<script nonce=\"n0nce\">").count()),
            (1, 1)
        );
        assert!(policy_with("n0nce").contains("script-src 'nonce-n0nce'"));
        assert!(!page.contains("src=") && !page.contains("href="), "nothing is loaded from elsewhere");
    }
}
