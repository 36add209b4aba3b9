//! Counters by a word of a closed set that its users own: resolved at the first use, found without
//! a lock, a look-up of labels or an allocation from then on.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;

/// See the module. The list stays short, so it is walked.
pub(super) struct Words {
    known: ArcSwap<Vec<(&'static str, Counter)>>,
    resolve: Box<dyn Fn(&'static str) -> Counter + Send + Sync>,
}

impl Words {
    /// No words yet; `resolve` makes the counter of one.
    pub(super) fn new(resolve: impl Fn(&'static str) -> Counter + Send + Sync + 'static) -> Self {
        Self { known: ArcSwap::default(), resolve: Box::new(resolve) }
    }

    /// Counts one.
    pub(super) fn count(&self, word: &'static str) {
        if let Some((_, counter)) = self.known.load().iter().find(|(known, _)| *known == word) {
            counter.inc();
            return;
        }
        let counter = (self.resolve)(word);
        counter.inc();
        self.known.rcu(|known| {
            let mut longer = Vec::clone(known);
            if longer.iter().all(|(other, _)| *other != word) {
                longer.push((word, counter.clone()));
            }
            Arc::new(longer)
        });
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.known.load().iter().map(|(word, _)| word)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_one_counter_whoever_says_it_first() {
        let (one, two) = (Counter::default(), Counter::default());
        let (first, second) = (one.clone(), two.clone());
        let words = Words::new(move |word| if word == "one" { first.clone() } else { second.clone() });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        words.count("one");
                        words.count("two");
                    }
                });
            }
        });
        assert_eq!((one.get(), two.get()), (2_000, 2_000));
        assert_eq!(words.known.load().len(), 2);
    }
}
