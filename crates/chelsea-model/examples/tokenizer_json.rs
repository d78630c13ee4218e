//! Writes a model's tokenizer as `tokenizer.json`, for programs that count tokens as the model does.
//!
//! ```text
//! cargo run -p chelsea-model --example tokenizer_json -- MODEL.gguf tokenizer.json
//! ```

use chelsea_model::ModelFile;
use chelsea_model::tokenizer::Tokenizer;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(model), Some(out)) = (args.next(), args.next()) else {
        return Err("give a model and the file to write".into());
    };
    let tokenizer = Tokenizer::open(&ModelFile::open(Path::new(&model))?)?;
    let partial = Path::new(&out).with_extension("partial");
    std::fs::write(&partial, tokenizer.to_json()?)?;
    std::fs::rename(&partial, &out)?;
    Ok(())
}
