//! `chelsea policies`: what can choose the entries that a cache keeps.

use crate::output::Table;

/// Runs the verb.
pub fn run() {
    let mut table =
        Table::with_heading(["policy, settings", "default", "compresses", "what it does"]).left(1).left(2).left(3);
    for policy in chelsea_kv::registry() {
        let when = if policy.one_shot_only { "once" } else { "online, once" };
        table.row([policy.name, "", when, &format!("{} [{}]", policy.about, policy.source)]);
        for setting in policy.settings {
            table.row([
                format!("  {}", setting.name),
                setting.default.to_string(),
                String::new(),
                setting.about.into(),
            ]);
        }
    }
    print!("{}", table.render());
    println!("\nSettings follow the name: --policy chelsea:floor=0,chunk=128");
}
