//! Tells cargo that a new migration, too, changes this crate: the macro that embeds them only sees changed files.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
