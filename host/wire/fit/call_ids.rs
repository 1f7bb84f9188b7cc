//! Ids of tool calls. Clients and servers repeat them (`call_0` in every turn), which Anthropic and Bedrock refuse, and which gives a result
//! to the wrong call where results carry the name of their tool. A result belongs to the nearest call before it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};

use super::CallIds;
use crate::conversation::{Block, Conversation};
use crate::wire::codec::hash;

/// Gives every call an id of its own that the vendor takes, and its result the same.
pub(super) fn rewrite(conversation: &mut Conversation<'_>, shape: CallIds) {
    let mut ids = Ids::new(shape);
    for (turn, blocks) in conversation.turns.iter_mut().map(|turn| &mut turn.blocks).enumerate() {
        for block in blocks {
            match block {
                Block::ToolCall(call) => ids.call(&mut call.id, turn),
                Block::ToolResult { id, .. } => ids.result(id),
                _ => {}
            }
        }
    }
}

/// What the calls of a conversation are called now, in the order of its turns.
pub(super) struct Ids {
    shape: CallIds,
    /// Ids that calls have now.
    taken: HashSet<String>,
    /// How many ids were tried for each of the client's: those before are taken.
    tried: HashMap<String, u32>,
    /// The calls of the last turn that had each of the client's ids.
    calls: HashMap<String, Calls>,
}

/// Calls of one turn that came with the same id.
struct Calls {
    turn: usize,
    /// What they are called now; results take them in order, and the last one may have several.
    ids: VecDeque<String>,
}

impl Ids {
    pub(super) fn new(shape: CallIds) -> Self {
        Self {
            shape,
            taken: HashSet::new(),
            tried: HashMap::new(),
            calls: HashMap::new(),
        }
    }

    /// Renames a call of a turn.
    pub(super) fn call(&mut self, id: &mut Cow<'_, str>, turn: usize) {
        let from = self.tried.get(&**id).copied().unwrap_or(0);
        let (attempt, own) = (from..)
            .map(|attempt| (attempt, self.shaped(id, attempt)))
            .find(|(_, own)| !self.taken.contains(&**own))
            .unwrap_or_default();
        let own = own.into_owned();
        self.tried.insert(id.to_string(), attempt.saturating_add(1));
        self.taken.insert(own.clone());
        let calls = self.calls.entry(id.to_string()).or_insert_with(|| Calls {
            turn,
            ids: VecDeque::new(),
        });
        if calls.turn != turn {
            calls.turn = turn;
            calls.ids.clear();
        }
        calls.ids.push_back(own.clone());
        replace(id, own);
    }

    /// Renames a result as its call.
    pub(super) fn result(&mut self, id: &mut Cow<'_, str>) {
        let own = match self.calls.get_mut(&**id).map(|calls| &mut calls.ids) {
            Some(ids) if ids.len() > 1 => ids.pop_front(),
            Some(ids) => ids.front().cloned(),
            // There is no such call; the vendor says so in its own words, if the id looks like one.
            None => Some(self.shaped(id, 0).into_owned()),
        };
        if let Some(own) = own {
            replace(id, own);
        }
    }

    /// The id as the vendor takes it; each further attempt gives another one.
    fn shaped<'i>(&self, id: &'i str, attempt: u32) -> Cow<'i, str> {
        match (self.shape, attempt) {
            (CallIds::NineAlphanumerics, _) => nine(id, attempt),
            (CallIds::AnyOfFormat, 0) => Cow::Borrowed(id),
            (CallIds::AnyOfFormat, _) => format!("{id}_{}", attempt + 1).into(),
        }
    }
}

fn replace(id: &mut Cow<'_, str>, own: String) {
    if **id != *own {
        *id = own.into();
    }
}

/// Nine letters and digits: the id itself if it is that already, and otherwise always the same ones for the same id.
fn nine(id: &str, attempt: u32) -> Cow<'_, str> {
    const LENGTH: usize = 9;
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let is_allowed = id.len() == LENGTH && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_allowed && attempt == 0 {
        return Cow::Borrowed(id);
    }
    let mut left = hash(format!("{attempt} {id}").as_bytes());
    let mut digits = String::with_capacity(LENGTH);
    for _ in 0..LENGTH {
        digits.push(ALPHABET[(left % 62) as usize] as char);
        left /= 62;
    }
    digits.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conversation::{Role, ToolCall, Turn};

    fn call(id: &str) -> Block<'static> {
        Block::ToolCall(ToolCall {
            id: id.to_owned().into(),
            name: "f".into(),
            arguments: "{}".into(),
            signature: None,
        })
    }

    fn result(id: &str, says: usize) -> Block<'static> {
        Block::ToolResult {
            id: id.to_owned().into(),
            name: None,
            content: vec![Block::Text(says.to_string().into())],
            is_error: false,
        }
    }

    fn conversation(turns: Vec<Vec<Block<'static>>>) -> Conversation<'static> {
        let role = |at: usize| {
            if at.is_multiple_of(2) {
                Role::Assistant
            } else {
                Role::User
            }
        };
        let turns = turns.into_iter().enumerate();
        Conversation {
            turns: turns.map(|(at, blocks)| Turn { role: role(at), blocks }).collect(),
            ..Conversation::default()
        }
    }

    fn ids(conversation: &Conversation<'_>) -> Vec<String> {
        let blocks = conversation.turns.iter().flat_map(|turn| &turn.blocks);
        let id = |block: &Block<'_>| match block {
            Block::ToolCall(call) => call.id.to_string(),
            Block::ToolResult { id, .. } => id.to_string(),
            _ => String::new(),
        };
        blocks.map(id).collect()
    }

    #[test]
    fn a_result_belongs_to_the_nearest_call_before_it() {
        let mut repeated = conversation(vec![
            vec![call("call_0")],
            vec![result("call_0", 1)],
            vec![call("call_0"), call("call_1")],
            vec![result("call_1", 2), result("call_0", 3)],
        ]);
        rewrite(&mut repeated, CallIds::AnyOfFormat);
        assert_eq!(
            ids(&repeated),
            ["call_0", "call_0", "call_0_2", "call_1", "call_1", "call_0_2"]
        );
    }

    #[test]
    fn equal_ids_in_one_turn_are_matched_in_order() {
        let mut repeated = conversation(vec![vec![call("c"), call("c")], vec![result("c", 1), result("c", 2)]]);
        rewrite(&mut repeated, CallIds::AnyOfFormat);
        assert_eq!(ids(&repeated), ["c", "c_2", "c", "c_2"]);
    }

    #[test]
    fn ids_of_nine_stay_and_others_become_nine() {
        let mut long = conversation(vec![
            vec![call("toolu_01ABCDEFGH"), call("abcDEF123")],
            vec![result("toolu_01ABCDEFGH", 1), result("abcDEF123", 2)],
        ]);
        rewrite(&mut long, CallIds::NineAlphanumerics);
        let ids = ids(&long);
        assert_eq!((&ids[0], &*ids[1]), (&ids[2], "abcDEF123"));
        assert_eq!(ids[0].len(), 9);
    }

    proptest! {
        /// Whatever ids repeat, calls end up with ids of their own, and each result has that of a call before it.
        #[test]
        fn calls_are_unique_and_results_have_theirs(
            turns in prop::collection::vec(prop::collection::vec(0_u8..4, 1..4), 1..6),
            nine in any::<bool>(),
        ) {
            let shape = if nine { CallIds::NineAlphanumerics } else { CallIds::AnyOfFormat };
            let name = |id: &u8| ["call_0", "call_0_2", "x", "Abc123xyz"][usize::from(*id)];
            let all = turns.iter().flat_map(|turn| {
                let calls = turn.iter().map(|id| call(name(id))).collect();
                let results = turn.iter().enumerate().map(|(at, id)| result(name(id), at)).collect();
                [calls, results]
            });
            let mut fitted = conversation(all.collect());
            rewrite(&mut fitted, shape);
            let ids = ids(&fitted);
            let mut seen = HashSet::new();
            let mut at = 0;
            for turn in &turns {
                let calls = &ids[at..at + turn.len()];
                for id in calls {
                    prop_assert!(seen.insert(id.clone()), "{} twice", id);
                    prop_assert!(!nine || (id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())));
                }
                // Every call of the turn has exactly one result.
                prop_assert_eq!(calls, &ids[at + turn.len()..at + 2 * turn.len()]);
                at += 2 * turn.len();
            }
        }
    }
}
