# Shorthands; the scripts are the truth.

# Every check, on both stores
test *filter:
    scripts/test {{filter}}

# In front of a service that runs
quickstart upstream:
    cargo run --release -- quickstart --upstream {{upstream}}

# Whether every dependency may be there: licences, bans, sources
deny:
    cargo deny check bans licenses sources

# Strangers' bytes, by libFuzzer
fuzz *options:
    scripts/fuzz {{options}}

# Micro-benchmarks
bench:
    cargo bench

# CPU per request, beside nginx
peers *options:
    cargo build --release
    benches/peers/run {{options}}
