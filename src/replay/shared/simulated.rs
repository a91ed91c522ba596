//! A shared store for tests.
use crate::replay::{
    record::{Arrival, Identities, Key, Token},
    shared::{Attempt, Standing, Unreachable, Verdict},
};
#[derive(Debug)]
pub(crate) struct Simulated;
impl Simulated {
    pub(crate) async fn claim(&self, _: &Arrival, _: Token) -> Result<Verdict, Unreachable> {
        Err(Unreachable)
    }
    pub(crate) async fn done(
        &self,
        _: &Arrival,
        _: Token,
        _: u16,
        _: Option<&Identities>,
    ) -> Result<(), Unreachable> {
        Err(Unreachable)
    }
    pub(crate) async fn failed(
        &self,
        _: &Arrival,
        _: Token,
        _: Attempt,
        _: u16,
    ) -> Result<(), Unreachable> {
        Err(Unreachable)
    }
    pub(crate) async fn renew(&self, _: &Key, _: Token) -> Result<(), Unreachable> {
        Err(Unreachable)
    }
    pub(crate) async fn look(&self, _: &Key) -> Result<Standing, Unreachable> {
        Err(Unreachable)
    }
}
