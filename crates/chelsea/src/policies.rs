//! `chelsea policies`: what can choose the entries that a cache keeps.

use crate::output::Table;

/// Runs the verb.
pub fn run() {
    let mut table = Table::with_heading(["policy, settings", "compresses", "what it does"]).left(1).left(2);
    for policy in chelsea_kv::registry() {
        let when = if policy.one_shot_only { "once" } else { "online, once" };
        table.row([policy.name, when, &format!("{} [{}]", policy.about, policy.source)]);
        for setting in policy.settings {
            table.row([&*format!("  {}={}", setting.name, setting.default), "", setting.about]);
        }
    }
    table.print();
    println!("\nSettings are shown with their defaults. They follow the name: --policy chelsea:floor=0,chunk=128");
}
