//! Turns that a vendor wants in another order, or not without something else.

use std::borrow::Cow;

use crate::conversation::{Block, Conversation, Role, Turn};

/// What the model says between the results of its tools and the user's next words, where the vendor wants something there.
pub(super) const BETWEEN: &str = "Done.";

/// What stands beside a document where the vendor wants a text there.
const BESIDE_DOCUMENT: &str = "The document is attached.";

/// Puts a turn of the model between results of tools and what the user says behind them, media of the results included: the results of one
/// round stay together.
pub(super) fn part_users_from_results(conversation: &mut Conversation<'_>) {
    let turns = std::mem::take(&mut conversation.turns);
    let mut parted: Vec<Turn<'_>> = Vec::with_capacity(turns.len());
    let mut round: Vec<Block<'_>> = Vec::new();
    let mut said: Vec<Block<'_>> = Vec::new();
    for turn in turns {
        if turn.role != Role::User {
            end_round(&mut parted, &mut round, &mut said);
            if turn.role == Role::System && ends_with_result(&parted) {
                parted.push(between());
            }
            parted.push(turn);
            continue;
        }
        if round.is_empty() && !turn.blocks.iter().any(is_result) && !ends_with_result(&parted) {
            parted.push(turn);
            continue;
        }
        for mut block in turn.blocks {
            match &mut block {
                Block::ToolResult { content, .. } => {
                    let (texts, media): (Vec<_>, Vec<_>) = content.drain(..).partition(is_text);
                    *content = texts;
                    said.extend(media);
                    round.push(block);
                }
                _ => said.push(block),
            }
        }
    }
    end_round(&mut parted, &mut round, &mut said);
    conversation.turns = parted;
}

fn end_round<'a>(parted: &mut Vec<Turn<'a>>, round: &mut Vec<Block<'a>>, said: &mut Vec<Block<'a>>) {
    if !round.is_empty() {
        parted.push(user(std::mem::take(round)));
    }
    if said.is_empty() {
        return;
    }
    if ends_with_result(parted) {
        parted.push(between());
    }
    parted.push(user(std::mem::take(said)));
}

fn user(blocks: Vec<Block<'_>>) -> Turn<'_> {
    Turn {
        role: Role::User,
        blocks,
    }
}

fn between() -> Turn<'static> {
    Turn {
        role: Role::Assistant,
        blocks: vec![Block::Text(Cow::Borrowed(BETWEEN))],
    }
}

fn ends_with_result(turns: &[Turn<'_>]) -> bool {
    let last = turns.last().and_then(|turn| turn.blocks.last());
    last.is_some_and(is_result)
}

fn is_result(block: &Block<'_>) -> bool {
    matches!(block, Block::ToolResult { .. })
}

fn is_text(block: &Block<'_>) -> bool {
    matches!(
        block,
        Block::Text(_)
            | Block::Document {
                source: crate::conversation::Source::Text(_),
                ..
            }
    )
}

/// Adds a text where a turn has a document and no text.
pub(super) fn put_texts_beside_documents(conversation: &mut Conversation<'_>) {
    for turn in &mut conversation.turns {
        let has_document = turn.blocks.iter().any(|block| matches!(block, Block::Document { .. }));
        let has_text = |block: &Block<'_>| matches!(block, Block::Text(text) if !text.trim().is_empty());
        if has_document && !turn.blocks.iter().any(has_text) {
            turn.blocks.push(Block::Text(Cow::Borrowed(BESIDE_DOCUMENT)));
        }
    }
}

/// Makes the instructions the user's words where there are no others.
pub(super) fn begin_with_instructions(conversation: &mut Conversation<'_>) {
    let is_spoken = |turn: &Turn<'_>| turn.role != Role::System && !turn.blocks.is_empty();
    if conversation.turns.iter().any(is_spoken) {
        return;
    }
    let instructions = conversation.turns.drain(..).flat_map(|turn| turn.blocks);
    let mut blocks = std::mem::take(&mut conversation.system);
    blocks.extend(instructions);
    if !blocks.is_empty() {
        conversation.turns.push(user(blocks));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conversation::Source;

    fn text(text: &'static str) -> Block<'static> {
        Block::Text(text.into())
    }

    fn result(id: &'static str, content: Vec<Block<'static>>) -> Block<'static> {
        Block::ToolResult {
            id: id.into(),
            name: None,
            content,
            is_error: false,
        }
    }

    fn turn(role: Role, blocks: Vec<Block<'static>>) -> Turn<'static> {
        Turn { role, blocks }
    }

    fn of(turns: Vec<Turn<'static>>) -> Conversation<'static> {
        Conversation {
            turns,
            ..Conversation::default()
        }
    }

    fn picture() -> Block<'static> {
        Block::Image(Source::Url("https://example.com/a.png".into()))
    }

    #[test]
    fn users_are_parted_from_results() {
        let done = || turn(Role::Assistant, vec![text(BETWEEN)]);
        let both = turn(Role::User, vec![result("a", vec![text("x")]), text("go on")]);
        let apart = vec![
            turn(Role::User, vec![result("a", vec![text("x")])]),
            done(),
            turn(Role::User, vec![text("go on")]),
        ];
        let two = vec![
            turn(Role::User, vec![result("a", vec![text("x")])]),
            turn(Role::User, vec![text("go on")]),
        ];
        let shown = turn(
            Role::User,
            vec![result("a", vec![text("x"), picture()]), result("b", Vec::new())],
        );
        let shown_apart = vec![
            turn(Role::User, vec![result("a", vec![text("x")]), result("b", Vec::new())]),
            done(),
            turn(Role::User, vec![picture()]),
        ];
        let plain = vec![turn(Role::User, vec![text("a")]), turn(Role::User, vec![text("b")])];
        let answered = vec![
            turn(Role::User, vec![result("a", vec![text("x")])]),
            turn(Role::Assistant, vec![text("b")]),
        ];
        let cases = [
            (vec![both], apart.clone()),
            (two, apart),
            (vec![shown], shown_apart),
            (plain.clone(), plain),
            (answered.clone(), answered),
        ];
        for (turns, expected) in cases {
            let mut conversation = of(turns);
            part_users_from_results(&mut conversation);
            assert_eq!(conversation.turns, expected);
        }
    }

    #[test]
    fn instructions_after_results_are_parted_too() {
        let mut conversation = of(vec![
            turn(Role::User, vec![result("a", vec![text("x")])]),
            turn(Role::System, vec![text("be brief")]),
        ]);
        part_users_from_results(&mut conversation);
        let roles: Vec<_> = conversation.turns.iter().map(|turn| turn.role).collect();
        assert_eq!(roles, [Role::User, Role::Assistant, Role::System]);
    }

    #[test]
    fn a_document_has_a_text_beside_it() {
        let document = Block::Document {
            name: None,
            source: Source::Url("s3://a/b.pdf".into()),
        };
        let mut conversation = of(vec![
            turn(Role::User, vec![document.clone()]),
            turn(Role::User, vec![document.clone(), text("read it")]),
        ]);
        put_texts_beside_documents(&mut conversation);
        assert_eq!(conversation.turns[0].blocks, [document.clone(), text(BESIDE_DOCUMENT)]);
        assert_eq!(conversation.turns[1].blocks, [document, text("read it")]);
    }

    #[test]
    fn instructions_alone_become_the_users_words() {
        let mut conversation = of(vec![turn(Role::System, vec![text("b")])]);
        conversation.system = vec![text("a")];
        begin_with_instructions(&mut conversation);
        assert_eq!(conversation.turns, [turn(Role::User, vec![text("a"), text("b")])]);
        assert!(conversation.system.is_empty());
    }
}
