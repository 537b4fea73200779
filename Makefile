# The few things one does with a clone. Everything sets up what it needs.
#
#   PG_CONFIG=/path/to/pg_config make test    with a PostgreSQL of your own
#   KMS_WRAP_CACHE=DIR         where tools are kept between runs (root: /var/cache/kms_wrap,
#                              others: ~/.cache/kms_wrap)
#   KMS_WRAP_TARGET=DIR        where cargo builds (target)
#   KMS_WRAP_SERVER_USER=USER  who runs servers when root calls (postgres)
#   KMS_WRAP_FEATURES="aws"    which cloud providers are built in (clouds: all; empty: none)
#   KMS_WRAP_MATRIX="16 18"    which other PostgreSQL versions are tested (16 17 18)
#
# As root on Debian what is missing is installed; other users bring a PostgreSQL
# with headers and libclang, and are told what is missing.

SHELL := /bin/bash
.PHONY: help demo demo-shell test install uninstall bench env clean

help:
	@echo 'make demo        shows the extension at work on a throw-away server'
	@echo 'make demo-shell  the same, and psql on its server at the end'
	@echo 'make test       runs all tests; tests/run TIER... runs some'
	@echo 'make install    builds and installs into the PostgreSQL of PG_CONFIG'
	@echo 'make uninstall  removes it from there'
	@echo 'make bench      measures, and prints the table of the README'
	@echo 'make env        prints what plain cargo needs: eval "$$(make -s env)"'
	@echo 'make clean      removes what was built in this tree'

demo:
	@tests/lib/with_cluster kms_wrap.worker_databases=postgres tests/demo/run

demo-shell:
	@tests/lib/with_cluster kms_wrap.worker_databases=postgres tests/demo/run --shell

test:
	@tests/run

install:
	@bash -euo pipefail -c '. tests/lib/setup.sh; setup; install_extension release; echo "installed for $$("$$PG_CONFIG" --version)"'

uninstall:
	@bash -euo pipefail -c '. tests/lib/setup.sh; setup; uninstall_extension; echo "removed from $$("$$PG_CONFIG" --version)"'

bench:
	@tests/lib/with_cluster fsync=on max_connections=150 shared_buffers=1GB max_wal_size=8GB kms_wrap.worker_databases=postgres,bench_kms tests/bench/run

env:
	@bash -euo pipefail -c '. tests/lib/setup.sh; setup; printf "export %s=%q\n" PGRX_HOME "$$PGRX_HOME" PG_CONFIG "$$PG_CONFIG" PATH "$$PATH"'

clean:
	rm -rf "$${KMS_WRAP_TARGET:-target}"
