//! Asks questions of a document that is read once, into a quarter of the memory.
//!
//! ```text
//! cargo run --release -p chelsea-engine --example ask -- MODEL DOCUMENT QUESTION...
//! ```

use chelsea_engine::{GenerateOptions, Layout, Session, SessionOptions, generate};
use chelsea_kv::Budget;
use chelsea_model::chat::ChatTemplate;
use chelsea_model::tokenizer::Tokenizer;
use chelsea_model::{LoadOptions, Model, ModelFile};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, document, questions @ ..] = args.as_slice() else {
        return Err("usage: ask MODEL DOCUMENT QUESTION...".into());
    };

    // The words of a model: its tokenizer, and the chat template that it was trained with.
    let file = ModelFile::open(Path::new(model))?;
    let tokenizer = Tokenizer::open(&file)?;
    let template = ChatTemplate::open(&file, &tokenizer)?;
    let layout = Layout::new(&tokenizer, template.as_ref(), None);

    // Everything is computed in a pool that the caller makes.
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().build()?);
    let model = Arc::new(pool.install(|| Model::from_file(&file, &LoadOptions::default(), &mut |_, _| {}))?);

    // A quarter of the bytes that a full cache in 16 bits takes. Whoever raises the flag ends reading and answering.
    let options = SessionOptions { budget: Budget::ByteFraction(0.25), ..SessionOptions::default() };
    let cancel = Arc::new(AtomicBool::new(false));
    let mut session = Session::new(model, pool, cancel, &options)?;
    let text = std::fs::read_to_string(document)?;
    session.read(&layout.document(&text)?, |progress| eprint!("\r{} of {} tokens", progress.done, progress.total))?;
    let (held, full) = (session.memory().total(), session.cache().full_bytes());
    eprintln!("\rread into {} KiB; the full cache takes {} KiB", held / 1024, full / 1024);

    let limits = GenerateOptions { max_tokens: Some(128), ..GenerateOptions::default() };
    for question in questions {
        // A fork shares the pages of the document, so that every question starts from there.
        let mut turn = session.fork()?;
        turn.read(&layout.question(question)?, |_| ())?;
        println!("{question}");
        generate(&mut turn, &tokenizer, &limits, |piece| print!("{piece}"))?;
        println!("\n");
    }
    Ok(())
}
