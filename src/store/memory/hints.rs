//! Hints between the nodes on one store in memory: a channel that all its clones share.

use futures_util::FutureExt;
use tokio::sync::broadcast::{Receiver, Sender, error::RecvError};

use crate::{
    hints::{Hear, Hint, Tell, read, write},
    kernel::id::Incarnation,
    store::{Answer, StoreError},
};

pub(super) fn open(all: &Sender<String>, me: Incarnation) -> Answer<'static, (Box<dyn Tell>, Box<dyn Hear>)> {
    let (teller, hearer) = (Teller { me, all: all.clone() }, Hearer { me, heard: all.subscribe() });
    async move { Ok((Box::new(teller) as Box<dyn Tell>, Box::new(hearer) as Box<dyn Hear>)) }.boxed_local()
}

struct Teller {
    me: Incarnation,
    all: Sender<String>,
}

impl Tell for Teller {
    fn tell<'a>(&'a mut self, hints: &'a [Hint]) -> Answer<'a, ()> {
        // Nobody has to listen.
        write(self.me, hints).into_iter().for_each(|text| _ = self.all.send(text));
        Box::pin(std::future::ready(Ok(())))
    }
}

struct Hearer {
    me: Incarnation,
    heard: Receiver<String>,
}

impl Hear for Hearer {
    fn hear(&mut self) -> Answer<'_, Vec<Hint>> {
        async move {
            match self.heard.recv().await {
                Ok(text) => Ok(read(self.me, &text)),
                Err(RecvError::Lagged(_)) => Ok(vec![Hint::Anything]),
                Err(RecvError::Closed) => Err(StoreError::Closed),
            }
        }
        .boxed_local()
    }
}
