-- The demo's other application: persons as real ones are. psql variable: n.
CREATE TABLE persons (
    id    integer PRIMARY KEY,
    name  text,
    email varchar(120) UNIQUE,
    city  text NOT NULL,
    note  text
);

-- Names that sort and collate oddly, nothing, NULL, emoji, and eight notes of 1 MB.
INSERT INTO persons
SELECT n,
    CASE WHEN n % 997 = 0 THEN NULL WHEN n % 991 = 0 THEN '' ELSE
        (ARRAY['Zoë', 'Åse', 'Łukasz', 'Ødegård', 'İpek', 'ıpek', 'ÉMILE', E'E\u0301mile', 'æsa', 'Aa', 'Đặng', 'نور', '小龍', 'Ольга', '🦄 Uni', 'de la',
               'van ''t', ' Leading', E'tab\t', 'ß'])[1 + n % 20] || ' ' ||
        (ARRAY['Müller', 'Mueller', 'MÜLLER', 'O''Brien', 'Ångström', 'Nguyễn', 'Schulz', 'Smith', 'smith', 'Ñandú', 'Straße'])[1 + n % 11] || ' ' || n
    END,
    CASE WHEN n % 33 = 0 THEN NULL WHEN n % 10 = 0 THEN 'Person.' || n || '@Mail.Example' ELSE 'person.' || n || '@mail.example' END,
    (ARRAY['Oslo', 'Łódź', 'İzmir', '東京', 'São Paulo', 'Ulm', 'Reykjavík'])[1 + n % 7],
    CASE WHEN n % (:n / 8) = 0 THEN (SELECT string_agg(md5(n || '/' || i), '') FROM generate_series(1, 32768) i)
         WHEN n % 5 = 0 THEN 'Note: allergic to nuts 🥜, ' || md5(n::text)
         WHEN n % 7 = 0 THEN '' END
FROM generate_series(1, :n) n;

-- What each value was, without the value.
CREATE TABLE persons_proof AS
SELECT id, sha256(name::bytea) AS name, sha256(email::bytea) AS email, sha256(note::bytea) AS note FROM persons;
ALTER TABLE persons_proof ADD PRIMARY KEY (id);
VACUUM (ANALYZE) persons, persons_proof;

-- One step of the application that goes on writing: a new person, and somebody moves.
CREATE PROCEDURE write_person(new_id integer, n integer) LANGUAGE plpgsql AS $$
DECLARE
    new_name text := 'Nieuw ' || new_id;
    new_email text := 'new.' || new_id || '@mail.example';
    moved integer := 1 + floor(random() * n);
BEGIN
    INSERT INTO persons VALUES (new_id, new_name, new_email, 'Gent', NULL);
    INSERT INTO persons_proof VALUES (new_id, sha256(new_name::bytea), sha256(new_email::bytea), NULL);
    UPDATE persons SET city = 'Utrecht' WHERE id = moved;
    UPDATE persons SET note = 'moved' WHERE id = moved;
    UPDATE persons_proof SET note = sha256('moved') WHERE id = moved;
END
$$;
