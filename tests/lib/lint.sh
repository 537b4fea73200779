# shellcheck shell=bash
# The lint tier: what a reviewer should not have to look for.

tier_lint() {
    cd "$KW_ROOT" || return 1
    export CARGO_TARGET_DIR=$KW_TARGET
    local pg=pg$PG_MAJOR
    check "lint/format" cargo fmt --check
    check "lint/clippy of the core" cargo clippy -q --no-default-features --all-targets -- -D warnings
    # On its own, because what plain `cargo test` skips `--all-targets` skips too.
    check "lint/clippy of the cluster tests" cargo clippy -q --no-default-features --features clouds --test cluster -- -D warnings
    check "lint/clippy of the provider tests" cargo clippy -q --no-default-features --features clouds --test providers -- -D warnings
    check "lint/clippy of the extension" cargo clippy -q --no-default-features --features "$pg clouds" --lib --bins -- -D warnings
    check "lint/rustdoc of the core" rustdoc_of --no-default-features
    check "lint/rustdoc of the extension" rustdoc_of --no-default-features --features "$pg clouds"
    check "lint/the core builds without pgrx" core_has_no_pgrx
    check "lint/the core names no PostgreSQL" core_names_no_pgrx
    check "lint/shell syntax" each_script bash -n
    if command -v shellcheck >/dev/null; then
        check "lint/shellcheck" each_script shellcheck -x -P "$KW_ROOT"
    fi
    if cargo deny --version >/dev/null 2>&1; then
        check "lint/licences and sources" cargo deny check licenses bans sources
    fi
}

rustdoc_of() { RUSTDOCFLAGS='-D warnings' cargo doc -q --no-deps --document-private-items "$@"; }

core_has_no_pgrx() {
    local tree
    tree=$(cargo tree --no-default-features -e normal,build --prefix none) || return 1
    ! grep -E '^(pgrx|cargo-pgrx)' <<<"$tree"
}

# The compiler refuses pgrx in a build without it, but not code behind cfg(feature).
core_names_no_pgrx() {
    local dir
    for dir in src/core src/provider; do
        [[ -d $dir ]] || { echo "no directory $dir"; return 1; }
        ! grep -rnE 'pgrx|pg_sys' "$dir" || return 1
    done
}

# each_script COMMAND...: over every bash script of the tree.
each_script() {
    local scripts=()
    mapfile -t scripts < <({
        find .ci tests -name target -prune -o -name '*.sh' -print
        grep -rlIE -m1 --exclude-dir=target --exclude='*.md' '^#!.*bash' .ci tests
    } | sort -u)
    ((${#scripts[@]})) || return 1
    "$@" "${scripts[@]}"
}
