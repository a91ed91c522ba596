//! Who calls: the holder of a token, or a person who logged in with one.

use std::{net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode, Uri,
    header::{
        AUTHORIZATION, CONTENT_TYPE, LOCATION, ORIGIN, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE,
    },
    request::Parts,
};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{
    access::{Access, AdminOptions, Role, TokenDigest, host},
    reply::{AdminResponse, CallError, CallResult, empty, json},
    session::{COOKIE_NAME, OpenSession, Sessions},
};
use crate::scheme::form_fields;

/// The longest body of a call.
const MAX_BODY: usize = 64 << 10;
/// The time within which the body of a call must arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a call comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallOrigin {
    /// The other end of the connection.
    pub(super) client: IpAddr,
    /// Whether the listener is on loopback.
    pub(super) on_loopback: bool,
}

/// An authorized caller.
#[derive(Debug)]
pub(super) struct Caller {
    role: Role,
    session: Option<OpenSession>,
    client: IpAddr,
}

impl Caller {
    /// Returns an error unless the caller may do what the full token permits.
    ///
    /// # Errors
    /// 403 for viewers.
    pub(super) fn must_be_operator(&self) -> Result<(), CallError> {
        if self.role == Role::Operator {
            return Ok(());
        }
        Err(CallError::new(StatusCode::FORBIDDEN, "the viewer token can only read"))
    }

    /// Logs what the caller does with an event or, in bulk, with those of a route. Nothing that a
    /// sender chose is logged.
    pub(super) fn audit(&self, action: &'static str, event: &str, route: &str) {
        let via = if self.session.is_some() { "session" } else { "token" };
        let (role, client) = (self.role.label(), self.client);
        tracing::info!(action, event, route, role, via, %client, "admin action");
    }

    /// Returns what the page of a session has to know about it.
    pub(super) fn describe(&self) -> AdminResponse {
        let csrf = self.session.as_ref().map(|session| session.csrf.as_str());
        json(StatusCode::OK, &json!({ "role": self.role.label(), "csrf": csrf }))
    }
}

/// The rules of access, and the sessions.
#[derive(Debug)]
pub(super) struct Auth {
    access: ArcSwap<Access>,
    sessions: Sessions,
}

impl Auth {
    /// Returns the rules of a configuration, without sessions.
    pub(super) fn new(options: &AdminOptions) -> Self {
        Auth { access: ArcSwap::from_pointee(Access::new(options)), sessions: Sessions::default() }
    }

    /// Replaces tokens and hosts. Sessions of a token that is no longer accepted end.
    pub(super) fn set_access(&self, options: &AdminOptions) {
        self.access.store(Arc::new(Access::new(options)));
    }

    /// Returns an error if there is no API, or not under the name that a request uses, or not for
    /// the page that sends it.
    ///
    /// # Errors
    /// 404 without a configured token; 403.
    pub(super) fn admit(&self, head: &Parts, origin: CallOrigin) -> Result<(), CallError> {
        let access = self.access.load();
        if !access.is_enabled() {
            return Err(CallError::not_found("not found"));
        }
        if !access.allows_host(&head.uri, &head.headers, origin.on_loopback) {
            let message = "unknown Host: add it to `admin.hosts`";
            return Err(CallError::new(StatusCode::FORBIDDEN, message));
        }
        if is_change(head) && !is_same_origin(&head.uri, &head.headers) {
            let message = "the request comes from a page of another origin";
            return Err(CallError::new(StatusCode::FORBIDDEN, message));
        }
        Ok(())
    }

    /// Returns who calls.
    ///
    /// # Errors
    /// 401; 403 for a viewer's change, and for a session's change without its CSRF token.
    pub(super) fn authorize(&self, head: &Parts, origin: CallOrigin) -> Result<Caller, CallError> {
        let caller = self.identify(&head.headers, origin)?;
        if is_change(head) {
            caller.must_be_operator()?;
            must_have_csrf(&caller, &head.headers)?;
        }
        Ok(caller)
    }

    fn identify(&self, headers: &HeaderMap, origin: CallOrigin) -> Result<Caller, CallError> {
        let access = self.access.load();
        let (role, session) = match headers.get(AUTHORIZATION) {
            Some(value) => (bearer(value).and_then(|token| access.role(&token)), None),
            None => {
                let session = self.sessions.find(headers, Instant::now());
                (session.as_ref().and_then(|session| access.role(&session.token)), session)
            }
        };
        let denied = || {
            let error = CallError::new(StatusCode::UNAUTHORIZED, "a valid token is required");
            error.with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"sealgate\""))
        };
        Ok(Caller { role: role.ok_or_else(denied)?, session, client: origin.client })
    }

    /// `POST /login`: opens a session for the holder of a token.
    ///
    /// # Errors
    /// 401 for a wrong token; 429 after too many of them; those of the body.
    pub(super) async fn login<B>(&self, head: &Parts, body: B, origin: CallOrigin) -> CallResult
    where
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let (now, client) = (Instant::now(), origin.client);
        if let Some(wait) = self.sessions.locked_out(client, now) {
            let error = CallError::new(StatusCode::TOO_MANY_REQUESTS, "too many failed logins");
            return Err(error.with(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1)));
        }
        let body = read(body).await?;
        let kind = head.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let is_form = kind.starts_with(b"application/x-www-form-urlencoded");
        let token = given_token(&body, is_form);
        let access = self.access.load();
        let Some((token, role)) = token.and_then(|token| Some((token, access.role(&token)?)))
        else {
            self.sessions.count_failure(client, now);
            tracing::warn!(%client, "a login to the inspector failed");
            return Err(CallError::new(StatusCode::UNAUTHORIZED, "wrong token"));
        };
        let Some((cookie, session)) = self.sessions.open(token, now) else {
            let message = "the system provides no random bytes";
            return Err(CallError::new(StatusCode::INTERNAL_SERVER_ERROR, message));
        };
        tracing::info!(role = role.label(), %client, "login to the inspector");
        let mut response = Caller { role, session: Some(session), client }.describe();
        if is_form {
            *response.status_mut() = StatusCode::SEE_OTHER;
            response.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
        }
        set_cookie(&mut response, &cookie, "");
        Ok(response)
    }

    /// `POST /logout`: ends the caller's session.
    ///
    /// # Errors
    /// 401; 400 without a session; 403 without its CSRF token.
    pub(super) fn logout(&self, head: &Parts, origin: CallOrigin) -> CallResult {
        let caller = self.identify(&head.headers, origin)?;
        must_have_csrf(&caller, &head.headers)?;
        let Some(session) = &caller.session else {
            return Err(CallError::new(StatusCode::BAD_REQUEST, "there is no session"));
        };
        self.sessions.close(session);
        let mut response = empty(StatusCode::NO_CONTENT);
        set_cookie(&mut response, "", "; Max-Age=0");
        Ok(response)
    }
}

fn is_change(head: &Parts) -> bool {
    !head.method.is_safe()
}

/// Returns whether a browser sends the request for a page of this listener, or no browser does.
fn is_same_origin(uri: &Uri, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let host = host(uri, headers);
    origin.zip(host).is_some_and(|((_, origin), host)| origin.eq_ignore_ascii_case(host.as_str()))
}

/// Returns an error if a session's change does not carry its CSRF token. Callers with a token need
/// none, because no browser sends a token by itself.
fn must_have_csrf(caller: &Caller, headers: &HeaderMap) -> Result<(), CallError> {
    match &caller.session {
        Some(session) if !session.has_csrf(headers) => {
            let message = "the header X-CSRF-Token does not contain the session's CSRF token";
            Err(CallError::new(StatusCode::FORBIDDEN, message))
        }
        Some(_) | None => Ok(()),
    }
}

/// Returns the token of `Authorization: Bearer`.
fn bearer(value: &HeaderValue) -> Option<TokenDigest> {
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| TokenDigest::of(token.trim_ascii()))
}

/// Returns the member or field `token` of a login.
fn given_token(body: &[u8], is_form: bool) -> Option<TokenDigest> {
    #[derive(Deserialize)]
    struct Login {
        token: String,
    }
    let token = if is_form {
        form_fields(body).find(|(name, _)| name == b"token").map(|(_, value)| value)
    } else {
        serde_json::from_slice(body).ok().map(|Login { token }| token.into_bytes())
    };
    token.map(|token| TokenDigest::of(token.trim_ascii()))
}

fn set_cookie(response: &mut AdminResponse, value: &str, attributes: &str) {
    let text = format!("{COOKIE_NAME}={value}; Path=/; HttpOnly; SameSite=Strict{attributes}");
    // The value is base64url.
    if let Ok(value) = HeaderValue::try_from(text) {
        response.headers_mut().insert(SET_COOKIE, value);
    }
}

/// An error of a body.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Reads the body of a call.
///
/// # Errors
/// 413, 408 or 400.
pub(super) async fn read<B>(body: B) -> Result<Bytes, CallError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the body is longer than {MAX_BODY} bytes");
            Err(CallError::new(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Ok(Err(_)) => Err(CallError::new(StatusCode::BAD_REQUEST, "the body is incomplete")),
        Err(_) => {
            Err(CallError::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"))
        }
    }
}
