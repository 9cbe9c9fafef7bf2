//! The command line; see [`stent::cli`].

/// Small values are made on one thread and dropped on another all the time: worth 10 to 15 %.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    stent::cli::main()
}
