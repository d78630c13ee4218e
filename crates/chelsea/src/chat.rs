//! A chat on a terminal: the cache lives on from turn to turn.

use crate::answer::{Draws, answer, held};
use crate::setup::Loaded;
use crate::{output, signals};
use anyhow::Result;
use chelsea_engine::{Finish, Layout, Session};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

const HELP: &str = "/memory shows the cache, /clear forgets the talk (the documents' cache is kept for it), /exit (or \
                    Ctrl-D) leaves; Ctrl-C ends an answer.";

/// The editor of lines. It takes SIGINT for itself when it is made, and at no other time: it has to be made before
/// [`signals::cancel_flag`] is first asked for, which takes it back.
pub fn editor() -> Result<DefaultEditor> {
    signals::keep_terminal();
    Ok(DefaultEditor::new()?)
}

/// Talks until the user leaves. `session` holds the documents, if there are any: /clear goes back to it, so it is kept and
/// counted.
///
/// At the prompt Ctrl-C is a key of the editor and forgets the line; while a question is read or answered it ends that.
pub fn chat(
    mut editor: DefaultEditor,
    session: Session,
    loaded: &Loaded,
    layout: &Layout<'_>,
    draws: &mut Draws,
    has_document: bool,
) -> Result<()> {
    eprintln!("{} with policy {}. {HELP}", loaded.name, session.cache().config().policy.name());
    if let Some(seed) = draws.seed() {
        eprintln!("Answers are drawn with --seed {seed}.");
    }
    let start = session;
    let mut turn = start.fork()?;
    let mut first = true;
    let mut closed = true;
    loop {
        let line = editor.readline("> ");
        // A signal that came while nothing was to be ended.
        signals::rearm();
        let line = match line {
            Ok(line) => line,
            // As a key, or as a signal from elsewhere.
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let line = line.trim();
        match line {
            "" => continue,
            "/exit" | "/quit" => return Ok(()),
            "/help" => {
                eprintln!("{HELP}");
                continue;
            }
            "/clear" => {
                turn = start.fork()?;
                first = true;
                continue;
            }
            "/memory" => {
                eprint!("{}", memory_line(&turn, &start));
                continue;
            }
            _ => {}
        }
        editor.add_history_entry(line)?;
        let tokens = match (first, has_document) {
            (true, true) => layout.question(line)?,
            (true, false) => layout.prompt(line)?,
            (false, _) => layout.next_turn(line, closed)?,
        };
        // An answer may fill what is left of the context, but a turn that cannot even begin is refused.
        if turn.history().len() + tokens.len() >= turn.limit() {
            eprintln!("The context of {} tokens is full. /clear starts anew.", turn.limit());
            continue;
        }
        let generation = answer(&mut turn, &tokens, loaded, &draws.next_answer(), true)?.generation;
        if generation.finish == Finish::Cancelled && generation.tokens.is_empty() {
            // Half a question cannot be taken out of a clustered cache again.
            eprintln!("The question was not read to its end: the conversation starts anew, as after /clear.");
            signals::rearm();
            turn = start.fork()?;
            first = true;
            continue;
        }
        first = false;
        // The end-of-turn token was sampled but not read; the next turn must begin after it.
        closed = generation.finish == Finish::EndOfTurn;
        let unread = generation.finish != Finish::Cancelled;
        if let Some(&token) = generation.tokens.last()
            && unread
            && turn.history().len() < turn.limit()
        {
            turn.step(token)?;
        }
        eprint!("{}", memory_line(&turn, &start));
        signals::rearm();
    }
}

fn memory_line(turn: &Session, start: &Session) -> String {
    let (now, full) = (turn.memory().total(), turn.cache().full_bytes());
    format!(
        "[{} tokens, cache {} of {} ({}), and {} kept for /clear]\n",
        turn.history().len(),
        output::bytes(now),
        output::bytes(full),
        output::percent(now, full),
        output::bytes(held(start, turn, now) - now)
    )
}
