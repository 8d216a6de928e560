#!/usr/bin/env bash
# Tests at length that a herd loses no acknowledged record: kills all nodes at random moments under load.
#
# Usage: scripts/storage.sh [ROUNDS [SEED]]
#
# In each of ROUNDS rounds (default: 100), five nodes start from their files, must hold every record that
# was ever acknowledged, take updates, and are all killed with SIGKILL. storage.sync changes from round to
# round. In some rounds the disk fills up and is emptied again, a second process tries to use a folder, or
# a folder is given to another node. SEED selects moments and events; a random seed is printed. As root,
# the folders are on a tmpfs of their own; otherwise the disk does not fill up. A round takes about two
# seconds. `cargo test` runs a few rounds.
set -euo pipefail
# shellcheck source=scripts/speak.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/speak.sh"
cd "$root"

read_amount_and_seed ROUNDS 100 "$@"
say "$amount rounds, seed $seed"
STORAGE_ROUNDS=$amount STORAGE_SEED=$seed \
    cargo test --locked --test durability a_herd_whose_nodes_are_all_killed -- --nocapture
