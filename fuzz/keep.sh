#!/bin/sh
# Puts what `run.sh` found into `corpus/`: of the inputs that together reach all that was reached, 32 of all lengths, up to
# 32 KiB a target. Files that were named by a person stay.
#
#   fuzz/keep.sh [TARGET…]
set -eu
cd "$(dirname "$0")/.."
directory=$(cargo metadata --no-deps --offline --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
host=$(rustc -vV | sed -n 's/^host: //p')
targets=$(cargo run --quiet --package levada-fuzz --example seeds -- --targets)
for target in ${*:-$(echo "$targets" | cut -d' ' -f1)}; do
    length=$(echo "$targets" | sed -n "s/^$target //p")
    merged=$directory/fuzz-corpus/merged/$target
    rm -rf "$merged"
    mkdir -p "$merged" "fuzz/corpus/$target"
    "$directory/$host/release/$target" -set_cover_merge=1 -max_len="$length" -rss_limit_mb=512 \
        "$merged" "$directory/fuzz-corpus/$target" "fuzz/corpus/$target" 2> "$merged.log"
    find "fuzz/corpus/$target" -type f -name 'found-*' -delete
    room=32768
    find "$merged" -type f -printf '%s %p\n' | sort -n | awk '
        { line[NR] = $0 }
        END { for (n = 0; n < 32 && n < NR; n++) print line[1 + int(n * NR / (NR < 32 ? NR : 32))] }
    ' | while read -r bytes file; do
        room=$((room - bytes))
        [ "$room" -ge 0 ] || break
        cp "$file" "fuzz/corpus/$target/found-$(basename "$file" | cut -c1-12)"
    done
    echo "$target: $(find "fuzz/corpus/$target" -type f | wc -l) of $(find "$merged" -type f | wc -l)"
done
