# shellcheck shell=bash
# shellcheck disable=SC2154  # WORK, HERE and the colours are set by tests/demo/run
# The demo's part on protected columns. Sourced by tests/demo/run, whose
# functions it uses.

PERSONS=${KMS_WRAP_DEMO_PERSONS:-200000}

size_of() { value "SELECT pg_size_pretty(pg_total_relation_size('persons'))"; }
# took N STATEMENT: the median of N timings in one session, in milliseconds.
took() {
    local arguments=(-c '\timing on') i
    for ((i = 0; i < $1; i++)); do arguments+=(-c "$2"); done
    run_psql -At "${arguments[@]}" | awk '/^Time: / { print $2 }' | sort -n |
        awk '{ ms[NR] = $1 } END { m = ms[int((NR + 1) / 2)]; printf m < 10 ? "%.2f ms" : "%.0f ms", m }'
}
# How many mail addresses and notes whoever has the table's files can read there.
readable() {
    local path found=0
    value CHECKPOINT
    while read -r path; do
        found=$((found + $(cat "$CLUSTER/data/$path"* | { grep -aoiE 'person\.[0-9]+@mail|allergic to nuts' || true; } | wc -l)))
    done < <(value "SELECT pg_relation_filepath(oid) FROM pg_class
        WHERE oid IN ('persons'::regclass, (SELECT reltoastrelid FROM pg_class WHERE oid = 'persons'::regclass))
            OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'persons'::regclass)")
    echo "$found"
}
# A hash over all names in an order.
order_of() { value "SELECT md5(string_agg(COALESCE(name, 'none'), ',' ORDER BY name COLLATE $2, id)) FROM $1 WHERE id <= $PERSONS"; }

persons_plain() {
    local found
    title "$(grouped "$PERSONS") persons, in plain text"
    run_psql -v n="$PERSONS" -f "$HERE/persons.sql"
    statement 'SELECT id, name, email, city, left(note, 40) AS note FROM persons WHERE ...'
    table "SELECT id, name, email, city, left(note, 40) AS note FROM persons WHERE id IN (4, 6, 7, 10, 13, 35, 991, 997) ORDER BY id"
    tell 'Some have no name, some an empty one, eight a note of a megabyte. Whoever gets hold of the disk reads them all:'
    found=$(readable)
    claim "$(grouped "$found") mail addresses and notes can be read in the table's files" yes "$( ((found > PERSONS)) && echo yes)"
    SIZE_PLAIN=$(size_of)
    ORDER_C=$(order_of persons '"C"')
    COLLATION=$(value "SELECT COALESCE((SELECT quote_ident(collname) FROM pg_collation WHERE collname = 'und-x-icu'), '\"C\"')")
    ORDER_ICU=$(order_of persons "$COLLATION")
    TIME_FIND_PLAIN=$(took 25 "SELECT * FROM persons WHERE email = 'person.4711@mail.example'")
    TIME_ALL_PLAIN=$(took 3 'SELECT count(name), count(email), count(note) FROM persons')
}

# The application that goes on writing: how often it wrote, how often it failed, and the longest that it waited, in seconds.
write_meanwhile() {
    local n=0 failed=0 start waited longest=0
    while [[ -e $WORK/writing ]]; do
        n=$((n + 1)) start=$(now)
        run_psql -c "CALL write_person($((PERSONS + n)), $PERSONS)" >"$WORK/writer.out" 2>&1 || failed=$((failed + 1))
        waited=$(($(now) - start))
        longest=$((waited > longest ? waited : longest))
    done
    awk -v n="$n" -v failed="$failed" -v ns="$longest" 'BEGIN { printf "%d %d %.1f\n", n, failed, ns / 1e9 }' >"$WORK/written"
}

persons_protect() {
    local column writer start written failed waited
    title 'Protected, while an application goes on writing'
    tell 'Its UNIQUE constraint would stand in the way. A unique blind index takes its place.'
    refused 55000 "SELECT * FROM kms_wrap.kw_protect_column('persons', 'email')"
    value 'ALTER TABLE persons DROP CONSTRAINT persons_email_key'
    : >"$WORK/writing"
    write_meanwhile &
    writer=$!
    start=$(now)
    statement "SELECT * FROM kms_wrap.kw_protect_column('persons', 'email', blind_index => 'unique', index_normalisation => 'lower')
SELECT * FROM kms_wrap.kw_protect_column('persons', 'name')
SELECT * FROM kms_wrap.kw_protect_column('persons', 'note')"
    value "SELECT FROM kms_wrap.kw_protect_column('persons', 'email', blind_index => 'unique', index_normalisation => 'lower')"
    value "SELECT FROM kms_wrap.kw_protect_column('persons', 'name')"
    value "SELECT FROM kms_wrap.kw_protect_column('persons', 'note')"
    for column in email name note; do encrypt_column "$column"; done
    live_end "all of it in $(seconds "$start") s"
    rm "$WORK/writing"
    wait "$writer"
    read -r written failed waited <"$WORK/written"
    run_psql -c 'VACUUM (ANALYZE) persons, persons_proof'
    claim "all three columns are protected, and the constraint proves it" '3 3' \
        "$(value "SELECT count(*), count(*) FILTER (WHERE is_validated AND trigger_state = 'always') FROM kms_wrap.kw_protected_columns WHERE status = 'protected'" | tr '|' ' ')"
    claim "meanwhile the application wrote $(grouped "$written") times, and never failed" 0 "$failed"
    tell "The longest that it waited was $waited s: a rewrite of the table lets nobody in. rewrite => false leaves that for the night."
    claim "the table's files have nothing left that could be read" 0 "$(readable)"
}

# encrypt_column COLUMN: what is there already, with a bar.
encrypt_column() {
    local caller progress percent status
    statement "CALL kms_wrap.kw_encrypt_column('persons', '$1')"
    run_psql -c "CALL kms_wrap.kw_encrypt_column('persons', '$1', batch_size => 5000)" 2>"$WORK/encrypt.err" &
    caller=$!
    while kill -0 "$caller" 2>/dev/null; do
        # The view of a table that is being rewritten waits for it, so this asks the table behind it.
        progress=$(value "SELECT least(COALESCE(round(100.0 * rows_done / nullif(rows_total, 0), 1), 0), 100.0), status FROM kms_wrap.protected_columns WHERE column_name = '$1'")
        percent=${progress%|*} status=${progress#*|}
        [[ $percent =~ ^[0-9.]+$ ]] && live "$(bar "$percent")  $status"
        sleep 0.2
    done
    wait "$caller" || {
        cat "$WORK/encrypt.err" >&2
        exit 1
    }
}

persons_read() {
    title 'Read by the view, found by the blind index'
    statement "SELECT id, name, left(email, 40) AS email FROM persons WHERE id = 4711"
    table "SELECT id, left(name, 24) || '...' AS name, left(email, 24) || '...' AS email FROM persons WHERE id = 4711"
    statement "SELECT id, name, email, city FROM persons_decrypted
WHERE email_bidx = ANY ((SELECT kms_wrap.kw_blind_index('persons', 'email', 'PERSON.4711@mail.example'))::bytea[])"
    local found="SELECT id, name, email, city FROM persons_decrypted
        WHERE email_bidx = ANY ((SELECT kms_wrap.kw_blind_index('persons', 'email', 'PERSON.4711@mail.example'))::bytea[])"
    table "$found"
    claim 'it is found whatever the case of its letters' 4711 "$(value "SELECT id FROM ($found) f")"
    claim 'every name, address and note is what it was: NULL, empty, emoji and megabytes too' 0 \
        "$(value "SELECT count(*) FROM persons_proof p FULL JOIN persons_decrypted d USING (id)
            WHERE (p.name, p.email, p.note) IS DISTINCT FROM (sha256(d.name::bytea), sha256(d.email::bytea), sha256(d.note::bytea))")"
    claim 'names sort as they did, by bytes and by the rules of Unicode' "$ORDER_C $ORDER_ICU" \
        "$(order_of persons_decrypted '"C"') $(order_of persons_decrypted "$COLLATION")"
    refused 23505 "INSERT INTO persons VALUES (0, 'Twin', 'Person.4711@MAIL.example', 'Ulm')"
    table "SELECT * FROM (VALUES
        ('size with indexes', '$SIZE_PLAIN', '$(size_of)'),
        ('find one by mail address', '$TIME_FIND_PLAIN', '$(took 25 "$found")'),
        ('read three columns of all', '$TIME_ALL_PLAIN', '$(took 3 'SELECT count(name), count(email), count(note) FROM persons_decrypted')')
    ) v ($(grouped "$PERSONS" | sed 's/.*/"& persons"/'), plain, protected)"
}

persons_rights() {
    local answer
    title 'Who may read'
    value "CREATE ROLE reception; CREATE ROLE doctors;
        GRANT SELECT, INSERT ON persons TO reception, doctors; GRANT SELECT ON persons_decrypted TO reception, doctors" >/dev/null
    statement "SELECT kms_wrap.kw_grant('encrypt', 'default', 'reception'), kms_wrap.kw_grant('decrypt', 'default', 'doctors')"
    value "SELECT kms_wrap.kw_grant('encrypt', 'default', 'reception'), kms_wrap.kw_grant('decrypt', 'default', 'doctors')" >/dev/null
    tell 'The reception may write a person, and read none:'
    statement "SET ROLE reception; INSERT INTO persons VALUES (-1, 'Iris', 'iris@mail.example', 'Oslo')"
    value "SET ROLE reception; INSERT INTO persons VALUES (-1, 'Iris', 'iris@mail.example', 'Oslo')"
    refused 42501 "SET ROLE reception; SELECT name FROM persons_decrypted WHERE id = -1"
    claim 'a doctor reads what the reception wrote' Iris "$(value "SET ROLE doctors; SELECT name FROM persons_decrypted WHERE id = -1")"
    tell 'A session of a doctor stays open while the right is taken away:'
    # In one session, told what to do through a pipe.
    coproc DOCTOR { PGOPTIONS='-c client_min_messages=warning' psql -X -q -At -v VERBOSITY=verbose 2>&1; }
    echo "SET ROLE doctors; SELECT name FROM persons_decrypted WHERE id = -1;" >&"${DOCTOR[1]}"
    read -r -t 20 answer <&"${DOCTOR[0]}"
    claim 'it reads' Iris "$answer"
    statement "SELECT kms_wrap.kw_revoke('decrypt', 'default', 'doctors')"
    value "SELECT kms_wrap.kw_revoke('decrypt', 'default', 'doctors')" >/dev/null
    echo "SELECT name FROM persons_decrypted WHERE id = -1;" >&"${DOCTOR[1]}"
    read -r -t 20 answer <&"${DOCTOR[0]}"
    claim 'its next statement is refused' 'ERROR:  42501' "${answer:0:13}"
    echo '\q' >&"${DOCTOR[1]}"
    wait "$DOCTOR_PID" 2>/dev/null || true
}

persons_steal() {
    title 'A thief who may write'
    tell 'He puts the name of person 4711 into the row of person 4712, to read it where he may.'
    refused 22023 "UPDATE persons SET name = (SELECT name FROM persons WHERE id = 4711) WHERE id = 4712"
    tell 'He is superuser, and turns the trigger off. Now it is there, and does not open: a value belongs to its row.'
    value 'BEGIN; ALTER TABLE persons DISABLE TRIGGER USER;
        UPDATE persons SET name = (SELECT name FROM persons WHERE id = 4711) WHERE id = 4712; COMMIT'
    refused 39000 'SELECT name FROM persons_decrypted WHERE id = 4712'
    claim 'kw_health sees the trigger that is off' 3 "$(value "SELECT count(*) FROM kms_wrap.kw_health() WHERE component = 'column' AND status = 'red'")"
    run_psql -c 'DELETE FROM persons WHERE id = 4712' -c "DO \$\$ DECLARE t record; BEGIN
        FOR t IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'persons'::regclass AND NOT tgisinternal LOOP
            EXECUTE format('ALTER TABLE persons ENABLE ALWAYS TRIGGER %I', t.tgname); END LOOP; END \$\$"
}
