//! Which host names a request may ask for, and which web pages may send requests. A browser sends requests for any page that it shows:
//! a page of somebody else must neither spend the operator's money nor change anything, and a foreign name that resolves to this
//! machine (DNS rebinding) must not make such a page look like one of our own. Pure functions, used by both listeners.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri, request};

/// How the `host` of a request reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host<'a> {
    /// The host that was asked for, with its port if it has one.
    Named(&'a str),
    /// There is no host, which HTTP/1.0 allows.
    Missing,
    /// There are several, or it is not text. RFC 9112, section 3.2: the answer is 400.
    Invalid,
}

impl<'a> Host<'a> {
    /// Reads the host of a request: of the request's target where it is there, else of the header.
    pub fn of(head: &'a request::Parts) -> Self {
        let mut hosts = head.headers.get_all(header::HOST).iter();
        let (first, second) = (hosts.next(), hosts.next());
        if second.is_some() {
            return Host::Invalid;
        }
        if let Some(authority) = head.uri.authority() {
            return Host::Named(authority.as_str());
        }
        match first.map(HeaderValue::to_str) {
            Some(Ok(host)) if !host.contains([',', ' ', '/', '@']) => Host::Named(host),
            Some(_) => Host::Invalid,
            None if head.version == http::Version::HTTP_11 => Host::Invalid,
            None => Host::Missing,
        }
    }
}

/// Whether a request may ask for this host: for an address, for `localhost`, or for a name in `allowed`, in which `*` stands for
/// letters, digits, dots and hyphens. An address cannot be rebound: only names can.
pub fn host_allowed(host: &str, allowed: &[String]) -> bool {
    let name = without_port(host).trim_end_matches('.').to_ascii_lowercase();
    let is_address = name.parse::<std::net::Ipv4Addr>().is_ok()
        || name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .is_some_and(|name| name.parse::<std::net::Ipv6Addr>().is_ok());
    is_address
        || name == "localhost"
        || name.ends_with(".localhost")
        || allowed
            .iter()
            .any(|pattern| matches(&pattern.to_ascii_lowercase(), &name))
}

/// Whether a page of this origin may send requests: it came from the same host and port, or is in `allowed`, such as
/// `https://app.example` or `http://localhost:*`.
pub fn origin_allowed(origin: &str, host: &str, allowed: &[String]) -> bool {
    is_same(origin, host) || origin_listed(origin, allowed)
}

/// Whether an origin is in the list; `*` alone stands for any.
pub fn origin_listed(origin: &str, allowed: &[String]) -> bool {
    let origin = origin.to_ascii_lowercase();
    allowed
        .iter()
        .any(|pattern| pattern == "*" || matches(&pattern.to_ascii_lowercase(), &origin))
}

/// Whether a request may come from where it says it comes from. What is no browser says nothing and may.
pub fn sender_allowed(headers: &HeaderMap, host: &str, allowed: &[String]) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter().peekable();
    if origins.peek().is_some() {
        return origins.all(|origin| {
            origin
                .to_str()
                .is_ok_and(|origin| origin_allowed(origin, host, allowed))
        });
    }
    // Browsers leave the origin out of simple GETs, and say there how near the page is.
    let sites = headers.get_all(&SEC_FETCH_SITE);
    sites.iter().all(|site| site == "same-origin" || site == "none")
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The same scheme does not matter: TLS may end before us.
fn is_same(origin: &str, host: &str) -> bool {
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    let default = match uri.scheme_str() {
        Some("http") => ":80",
        Some("https") => ":443",
        _ => return false,
    };
    let bare = |host: &str| host.strip_suffix(default).unwrap_or(host).to_ascii_lowercase();
    uri.authority()
        .is_some_and(|authority| bare(authority.as_str()) == bare(host))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether a pattern with at most one `*` matches. The `*` never matches what would end the name or the port.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((prefix, suffix)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let inner = text.strip_prefix(prefix).and_then(|text| text.strip_suffix(suffix));
    inner.is_some_and(|inner| {
        !inner.is_empty()
            && inner
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
    })
}

/// What is wrong with an entry of a list of hosts, if anything.
pub fn fault_of_host(host: &str) -> Option<&'static str> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_*".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_name) {
        Some("is not a host name without port")
    } else if host.matches('*').count() > 1 {
        Some("has more than one `*`")
    } else {
        None
    }
}

/// What is wrong with an entry of a list of origins, if anything.
pub fn fault_of_origin(origin: &str) -> Option<&'static str> {
    if origin == "*" {
        return None;
    }
    let Some((scheme, host)) = origin.split_once("://") else {
        return Some("is not an origin");
    };
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if scheme.is_empty() || !scheme.bytes().all(is_scheme) || host.contains(['/', '@', ' ', '?', '#']) {
        Some("is not an origin")
    } else if origin.matches('*').count() > 1 {
        Some("has more than one `*`")
    } else {
        None
    }
}

/// Whether a request only asks whether a page may send another one: a browser's CORS preflight.
pub fn is_preflight(head: &request::Parts) -> bool {
    head.method == Method::OPTIONS
        && head.headers.contains_key(header::ORIGIN)
        && head.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The origin of a request if it is in the list: its page may read answers.
pub fn reader<'a>(headers: &'a HeaderMap, allowed: &[String]) -> Option<&'a HeaderValue> {
    if allowed.is_empty() {
        return None;
    }
    let origin = headers.get(header::ORIGIN)?;
    origin_listed(origin.to_str().ok()?, allowed).then_some(origin)
}

/// Lets the page of an origin read an answer and its headers.
pub fn let_read(origin: HeaderValue, answer: &mut HeaderMap) {
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
    answer.append(header::VARY, HeaderValue::from_static("origin"));
}

/// What a browser is told that asks whether a page may send a request.
pub fn answer_preflight(question: &HeaderMap, answer: &mut HeaderMap) {
    answer.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, POST"),
    );
    if let Some(headers) = question.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
    }
    answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|entry| (*entry).to_owned()).collect()
    }

    fn head(uri: &str, version: http::Version, headers: &[(&'static str, &'static str)]) -> request::Parts {
        let mut request = http::Request::builder().uri(uri).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_request_names_one_host() {
        use http::Version;
        let host = |headers: &[_]| head("/", Version::HTTP_11, headers);
        assert_eq!(Host::of(&host(&[("host", "a:80")])), Host::Named("a:80"));
        for invalid in [
            &[][..],
            &[("host", "a"), ("host", "a")],
            &[("host", "a, b")],
            &[("host", "a@b")],
        ] {
            assert_eq!(Host::of(&host(invalid)), Host::Invalid, "{invalid:?}");
        }
        assert_eq!(Host::of(&head("/", Version::HTTP_10, &[])), Host::Missing);
        assert_eq!(Host::of(&head("http://b/", Version::HTTP_2, &[])), Host::Named("b"));
        let both = head("http://b/", Version::HTTP_11, &[("host", "a")]);
        assert_eq!(Host::of(&both), Host::Named("b"), "RFC 9112, section 3.2.2");
    }

    #[test]
    fn addresses_and_localhost_are_always_allowed_and_names_where_they_are_listed() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "[::1]",
            "10.1.2.3",
            "localhost:1",
            "a.LocalHost",
            "localhost.",
        ] {
            assert!(host_allowed(host, &[]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "::1",
            "notlocalhost",
        ] {
            assert!(!host_allowed(host, &[]), "{host}");
        }
        let allowed = list(&["llm.corp", "*.internal"]);
        assert!(host_allowed("LLM.corp:443", &allowed) && host_allowed("a.b.internal", &allowed));
        assert!(!host_allowed("x.llm.corp", &allowed) && !host_allowed(".internal", &allowed));
    }

    #[test]
    fn pages_of_the_same_host_and_listed_ones_are_allowed() {
        let allowed = list(&["https://app.example", "http://localhost:*"]);
        for origin in [
            "http://localhost:8080",
            "http://LOCALHOST:8080",
            "https://app.example",
            "http://localhost:3000",
        ] {
            assert!(origin_allowed(origin, "localhost:8080", &allowed), "{origin}");
        }
        for origin in [
            "null",
            "",
            "http://evil.example",
            "https://app.example.evil",
            "http://app.example",
            "http://localhost:3000/",
            "http://localhost:1@evil.example",
        ] {
            assert!(!origin_allowed(origin, "localhost:8080", &allowed), "{origin}");
        }
        assert!(origin_allowed("http://a", "a:80", &[]) && origin_allowed("https://a", "a", &[]));
        assert!(!origin_allowed("http://a:81", "a", &[]) && !origin_allowed("file://a", "a", &[]));
        assert!(origin_allowed("null", "a", &list(&["*"])));
    }

    #[test]
    fn what_is_no_browser_may_send_and_what_is_one_only_for_its_own_pages() {
        let may = |headers: &[(&'static str, &'static str)]| {
            sender_allowed(
                &head("/", http::Version::HTTP_11, headers).headers,
                "a:1",
                &list(&["http://b"]),
            )
        };
        assert!(may(&[]));
        assert!(may(&[("sec-fetch-site", "none")]) && may(&[("sec-fetch-site", "same-origin")]));
        assert!(!may(&[("sec-fetch-site", "cross-site")]) && !may(&[("sec-fetch-site", "same-site")]));
        assert!(may(&[("origin", "http://a:1")]));
        assert!(may(&[("origin", "http://b"), ("sec-fetch-site", "cross-site")]));
        assert!(!may(&[("origin", "http://a:1"), ("origin", "http://c")]));
        assert!(!may(&[("origin", "null")]));
    }

    #[test]
    fn entries_of_lists_are_checked() {
        for host in ["llm.corp", "*.corp", "a_b"] {
            assert_eq!(fault_of_host(host), None, "{host}");
        }
        for host in ["", "http://a", "a:80", "*.*", "a b"] {
            assert!(fault_of_host(host).is_some(), "{host}");
        }
        for origin in ["*", "https://a", "http://localhost:*", "app://obsidian.md", "file://"] {
            assert_eq!(fault_of_origin(origin), None, "{origin}");
        }
        for origin in ["", "a", "https://a/", "null", "https://*.*", "://a"] {
            assert!(fault_of_origin(origin).is_some(), "{origin}");
        }
    }
}
