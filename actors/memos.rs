//! What an application may say about the results that its executions share.

use actix::{Context, Handler, Message, ResponseFuture};

use super::{door::Door, handle::Stent, steward::Forget, supervisor::Supervisor};
use crate::{
    activity::Activity,
    cx::Memo,
    error::Error,
    kernel::memo::{MEMO_KEY_BYTES, MemoKey, OF_ACTIVITY, OF_SCOPE},
    store::StoreError,
};

/// Forgets results that executions share: whoever asks behind the answer has the activity called anew, and those who wait at that moment
/// as well. Who is calling it goes on, and has the result for itself. The answer is how many keys were forgotten; what executions have
/// taken already is in their own logs, and stays.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<u64, Error>")]
pub struct ForgetMemo {
    keys: Result<(MemoKey, MemoKey), String>,
}

impl ForgetMemo {
    /// Forgets the one result that calls of an activity share by this; for how long it is kept does not matter.
    #[must_use]
    pub fn one<A: Activity>(memo: Memo) -> ForgetMemo {
        let key = memo.forever().of(A::NAME).map_err(|failure| failure.message().to_owned());
        ForgetMemo { keys: key.map(|shares| shares.key.neighbours(MEMO_KEY_BYTES)) }
    }

    /// Forgets all results of an activity in a scope.
    #[must_use]
    pub fn scope<A: Activity>(scope: &str) -> ForgetMemo {
        ForgetMemo { keys: Ok(MemoKey::new(A::NAME, 0, scope, &[]).neighbours(OF_SCOPE)) }
    }

    /// Forgets all results of an activity, in whatever scope.
    #[must_use]
    pub fn activity<A: Activity>() -> ForgetMemo {
        ForgetMemo { keys: Ok(MemoKey::new(A::NAME, 0, "", &[]).neighbours(OF_ACTIVITY)) }
    }
}

impl Door {
    /// Lets keys be forgotten, again if the incarnation ends meanwhile.
    async fn forget_memo(&self, forget: ForgetMemo) -> Result<u64, Error> {
        let (first, last) = forget.keys.map_err(Error::Memo)?;
        loop {
            match self.links().await?.steward.send(Forget(first, last)).await {
                Ok(Err(Error::Store(StoreError::Closed) | Error::Stopped)) | Err(_) => self.breathe().await,
                Ok(answer) => return answer,
            }
        }
    }
}

impl Handler<ForgetMemo> for Supervisor {
    type Result = ResponseFuture<Result<u64, Error>>;

    fn handle(&mut self, forget: ForgetMemo, _: &mut Context<Self>) -> Self::Result {
        let door = self.door();
        Box::pin(async move { door.forget_memo(forget).await })
    }
}

impl Stent {
    /// Forgets results that executions share; see [`ForgetMemo`].
    ///
    /// # Errors
    /// [`Error::Memo`] when the key cannot be one; [`Error::Store`] or [`Error::Stopped`].
    pub async fn forget_memo(&self, forget: ForgetMemo) -> Result<u64, Error> {
        self.asked(self.supervisor().send(forget).await)
    }
}
