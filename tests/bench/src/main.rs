//! What `run.py` measures with: a mock vendor, a load generator, a swap check and a look at a process.
//! Each runs on one thread, so that one core holds the vendor and the load, and prints JSON lines.

mod chat;
mod client;
mod history;
mod load;
mod message;
mod process;
mod swap;
mod vendor;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer chat completions as fast as can be, whole or as streams of 64 frames.
    Vendor(vendor::Options),
    /// Send chat completions over keep-alive connections, check every answer and print one line of numbers.
    Load(load::Options),
    /// Swap a policy again and again under load and check which version decided each request.
    Swap(swap::Options),
    /// Print the processor time and memory of a process and its children.
    Process {
        #[arg(long)]
        pid: u32,
    },
}

fn main() {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime without worker threads starts");
    let printed = runtime.block_on(async {
        match options.command {
            Command::Vendor(options) => vendor::run(options).await,
            Command::Load(options) => load::run(options).await.map(|report| print(&report)),
            Command::Swap(options) => swap::run(options).await.map(|report| print(&report)),
            Command::Process { pid } => process::Usage::of_tree(pid).map(|usage| print(&usage)),
        }
    });
    if let Err(error) = printed {
        eprintln!("pointsman-bench: {error}");
        std::process::exit(1);
    }
}

fn print(report: &impl serde::Serialize) {
    println!(
        "{}",
        serde_json::to_string(report).expect("a report is plain numbers and text")
    );
}
