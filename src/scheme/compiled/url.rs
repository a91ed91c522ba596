//! The signed address: the one registered with the sender, and what the sender may change.

use http::Method;

/// How the signed address follows from the registered one.
#[derive(Clone, Debug, Default)]
pub(in crate::scheme) struct UrlRule {
    /// Parameters that the sender appends to the registered query; at most one, at the end.
    pub(in crate::scheme) appended: Vec<Box<str>>,
    /// Whether the sender appends parameters of its choice in GET requests, which have no body.
    pub(in crate::scheme) get_parameters: bool,
    /// Whether the sender signs the address with and without its port.
    pub(in crate::scheme) optional_port: bool,
    /// Whether the sender signs the address with and without its user and password.
    pub(in crate::scheme) optional_userinfo: bool,
}

impl UrlRule {
    /// Returns whether a request with this method may have a body.
    pub(in crate::scheme) fn allows_body(&self, method: &Method) -> bool {
        !(self.get_parameters && method == Method::GET)
    }

    /// Returns whether the sender may append `parameters` to the registered query.
    pub(in crate::scheme) fn allows(&self, parameters: &str, method: &Method) -> bool {
        let is_only = |name: &str| {
            let value = parameters.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
            value.is_some_and(|value| !value.contains('&'))
        };
        (self.get_parameters && method == Method::GET)
            || self.appended.iter().any(|name| is_only(name))
    }

    /// Returns every address that the sender may sign for a registered one, which comes first.
    pub(in crate::scheme) fn addresses(&self, registered: &str) -> Vec<String> {
        let mut addresses = vec![registered.to_owned()];
        let Some((scheme, rest)) = registered.split_once("://") else { return addresses };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo), host),
            None => (None, authority),
        };
        let port = host.rfind(':').filter(|colon| !host[*colon..].contains(']'));
        let mut hosts = vec![host.to_owned()];
        if self.optional_port {
            hosts.push(match port {
                Some(colon) => host[..colon].to_owned(),
                None => format!("{host}:{}", if scheme == "http" { 80 } else { 443 }),
            });
        }
        for host in hosts {
            let with = userinfo.map(|userinfo| format!("{scheme}://{userinfo}@{host}{path}"));
            let without = (userinfo.is_none() || self.optional_userinfo)
                .then(|| format!("{scheme}://{host}{path}"));
            for address in with.into_iter().chain(without) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizes_port_and_userinfo() {
        let twilio = UrlRule { optional_port: true, optional_userinfo: true, ..UrlRule::default() };
        let addresses = |registered| twilio.addresses(registered);
        assert_eq!(
            addresses("https://u:p@h.example:8443/x?a=1:2"),
            [
                "https://u:p@h.example:8443/x?a=1:2",
                "https://h.example:8443/x?a=1:2",
                "https://u:p@h.example/x?a=1:2",
                "https://h.example/x?a=1:2",
            ]
        );
        assert_eq!(addresses("https://h/x"), ["https://h/x", "https://h:443/x"]);
        assert_eq!(addresses("http://[::1]/x"), ["http://[::1]/x", "http://[::1]:80/x"]);
        assert_eq!(UrlRule::default().addresses("https://u@h:1/x"), ["https://u@h:1/x"]);
    }

    #[test]
    fn allows_one_appended_parameter_at_the_end() {
        let rule = UrlRule { appended: vec!["hash".into()], ..UrlRule::default() };
        for (parameters, allowed) in
            [("hash=1", true), ("hash=1&a=2", false), ("a=2&hash=1", false), ("hash", false)]
        {
            assert_eq!(rule.allows(parameters, &Method::POST), allowed, "{parameters}");
        }
    }
}
