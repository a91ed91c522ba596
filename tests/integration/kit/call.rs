//! A request of any sender, editable before it is sent.

/// Request of any sender.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Call {
    /// Creates a request without additional headers.
    pub(crate) fn new(method: &'static str, target: &str, body: &str) -> Self {
        let (target, body) = (target.to_owned(), body.as_bytes().to_vec());
        Call { method, target, headers: Vec::new(), body }
    }

    /// Creates a POST request.
    pub(crate) fn post(target: &str, body: &str) -> Self {
        Call::new("POST", target, body)
    }

    /// Adds a header line.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes a header.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    /// Replaces the value of a header.
    pub(crate) fn set(self, name: &str, value: &str) -> Self {
        self.without(name).with(name, value)
    }

    /// Replaces the body without changing the signature.
    pub(crate) fn tampered(self, body: &str) -> Self {
        Call { body: body.as_bytes().to_vec(), ..self }
    }

    /// Returns the bytes of the request on the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: localhost\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", self.body.len()));
        [head.as_bytes(), &self.body].concat()
    }
}
