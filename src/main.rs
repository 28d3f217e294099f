//! The program; everything is in the library, so that tests can reach it.

/// How it is set is in `.cargo/config.toml` (ADR 27).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    nats_mqtt::cli::main()
}
