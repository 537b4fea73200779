# shellcheck shell=bash
# shellcheck disable=SC2154  # readme, root, work and prefix are set by tests/docs/run
# Compares the README's reference with what CREATE EXTENSION makes. Uses the
# variables and functions of tests/docs/run.

# Objects of the extension. pg_depend knows them, whatever their schema.
members="SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
         WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'kms_wrap'"

# The functions that people call, as the README writes them. Of kw_column_* it has the names: they are steps of others.
signatures="SELECT p.proname || '(' || regexp_replace(replace(pg_get_function_arguments(p.oid), ' DEFAULT ', ' = '),
                                                    '::[a-z ]+(?=,|\$)', '', 'g') || ')'
            FROM pg_proc p JOIN ($members) m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
            WHERE p.prorettype <> 'trigger'::regtype AND p.proname !~ '^kw_column_' ORDER BY 1"

names="SELECT p.proname FROM pg_proc p JOIN ($members) m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
       UNION SELECT c.relname FROM pg_class c JOIN ($members) m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
       WHERE c.relkind IN ('r', 'v') OR c.relname = 'wrapper_generation_seq' ORDER BY 1"

check_reference() {
    reference_db=$(new_database fresh)
    check "README.md has every function with its arguments" has_signatures
    check "README.md names every function, table and view" has_names
    check "README.md names every setting" has_settings
    check "README.md names nothing that does not exist" has_nothing_else
    check "README.md has the sizes of the shipped algorithms" has_sizes
    check "README.md has the error texts of the source" has_error_texts
    check "README.md's links lead to its headings" has_targets
    check "README.md's contents are its sections" has_contents
}

# each_in_readme WHAT: every line of the input stands in the README, however it is broken into lines there.
each_in_readme() {
    local text line missing=0 lines=0
    text=$(tr -s ' \n' ' ' <"$readme")
    while read -r line; do
        lines=$((lines + 1))
        [[ $text == *"$line"* ]] || { echo "missing: $line"; missing=1; }
    done
    ((lines > 0 && missing == 0))
}

has_signatures() { sql -d "$reference_db" -c "$signatures" | each_in_readme; }

# A name in backticks, alone or before its arguments.
has_names() {
    local name missing=0 lines=0
    while read -r name; do
        lines=$((lines + 1))
        grep -qE "\`${name}[\`(]" "$readme" || { echo "missing: $name"; missing=1; }
    done < <(sql -d "$reference_db" -c "$names")
    ((lines > 0 && missing == 0))
}

# Hidden settings are in no catalog, so the source is asked.
setting_names() { grep -oE 'c"kms_wrap\.[a-z0-9_]+"' "$root/src/pg/gucs.rs" | cut -d'"' -f2; }

# The row of each setting in the table.
has_settings() { setting_names | sed "s/.*/| \`&\` |/" | each_in_readme; }

has_nothing_else() {
    local unknown
    unknown=$(comm -13 <({
        sql -d "$reference_db" -c "$names" | sed 'p; s/^/kms_wrap./'
        setting_names
        printf 'kms_wrap.%s\n' control so
        # A column of decrypting views.
        echo kw_plain_columns
    } | sort -u) <(grep -oE '\b(kms_wrap\.[a-z0-9_]+|(kw|vw)_[a-z0-9_]+)' "$readme" | sort -u))
    [[ -z $unknown ]] || { printf '%s\n' "$unknown"; return 1; }
}

# | ML-KEM-768 | ... | 1184 | 1088 | 64 |
has_sizes() {
    sql -d "$reference_db" -c "SELECT format('%s | %s | %s | %s |', name, params ->> 'ek_len', params ->> 'ct_len', params ->> 'seed_len')
                               FROM kms_wrap.crypto_algorithms WHERE class = 'kem' AND id < 1000" | each_in_readme
}

sections() { sed -n 's/^## //p' "$readme" | sed '/^Contents$/d'; }

# How a heading's link is made of its text.
anchors() { tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9\n_-'; }

# Every link inside the file leads to a heading.
has_targets() {
    local missing
    missing=$(comm -23 <(grep -oE '\]\(#[^)]*\)' "$readme" | sed 's/^](#//; s/)$//' | sort -u) <(sed -n 's/^##* //p' "$readme" | anchors | sort -u))
    [[ -z $missing ]] || { printf 'no heading for #%s\n' "$missing"; return 1; }
}

# The error texts of the README, in the table and in the headings of Troubleshooting, are those of the source. What varies
# in a text is cut out, and its longest remaining part looked for. PostgreSQL's own errors are no texts of ours.
has_error_texts() {
    local text part longest parts missing=0 lines=0
    while read -r text; do
        [[ $text =~ ^(permission denied for function|invalid transaction|unrecognized configuration) ]] && continue
        lines=$((lines + 1)) longest=
        mapfile -t parts < <(sed -E 's/"[^" ]*"|0x[0-9a-f]+|\.\.\.|kw_[a-z_]+|[0-9]{4}/\n/g' <<<"$text")
        for part in "${parts[@]}"; do
            ((${#part} <= ${#longest})) || longest=$part
        done
        grep -rqF -- "$longest" "$root/src" "$root/sql" || { echo "not in the source: $longest"; missing=1; }
    done < <({
        sed -n '/^## Errors/,/^## /p' "$readme" | sed -nE 's/^\| [0-9A-Z]{5} \| ([^|]*) \|.*/\1/p' | grep -oE "\`[^\`]+\`" | tr -d "\`"
        sed -n 's/^#### ERROR: //p' "$readme"
    })
    ((lines > 0 && missing == 0))
}

# "- [Some section](#some-section)" for every section, in their order.
has_contents() {
    diff <(sed -n 's/^- \[\(.*\)\](#.*)$/\1/p' "$readme") <(sections) &&
        diff <(sed -n 's/^- \[.*\](#\(.*\))$/\1/p' "$readme") <(sections | anchors)
}
