//! `chelsea models`: what is on this machine and what can be fetched by a short name.

use crate::cli::{ModelsAction, ModelsArgs};
use crate::output::{self, Table};
use anyhow::Result;
use chelsea_hub::{Kind, Options, State};

/// Runs the verb.
pub fn run(args: &ModelsArgs) -> Result<()> {
    let options = Options::from_env();
    match args.action.as_ref().unwrap_or(&ModelsAction::List) {
        ModelsAction::List => {
            list(&options);
            Ok(())
        }
        ModelsAction::Pull { model } => {
            crate::signals::cancel_flag()?;
            let found = chelsea_hub::resolve(model, &options, &mut output::Downloads::new(false))?;
            println!("{}", found.path.display());
            Ok(())
        }
        ModelsAction::Remove { model } => {
            let freed = chelsea_hub::remove(model, &options, &mut output::Downloads::new(true))?;
            println!("removed {model}: {} freed", output::bytes(usize::try_from(freed)?));
            Ok(())
        }
    }
}

fn list(options: &Options) {
    let mut table = Table::with_heading(["name", "size", "here", "what"]).left(3);
    for entry in chelsea_hub::list(options).iter().filter(|e| e.kind != Kind::Data) {
        let here = match entry.state {
            State::Installed => "yes",
            State::Partial => "partly",
            State::Available => "no",
        };
        table.row([entry.name.clone(), output::bytes(entry.bytes as usize), here.into(), entry.title.clone()]);
    }
    table.print();
}
