#!/bin/sh
# Stand-in for `benchmark_model` that run.sh starts: prints what the real tool printed, with the time
# of times.txt (a line `FILE MICROSECONDS`), or fails as faults.txt says (`FILE EXIT_CODE TIMES`).
here=${0%/*}
for word; do
  case $word in
  --help) exit 0 ;;
  --graph=*) graph=${word##*/} ;;
  --use_gpu=true) gpu=yes ;;
  esac
done
echo "$graph" >>"$here/calls.txt"
calls=$(grep -c '' "$here/calls.txt")
if [ -f "$here/dead_from" ] && [ "$calls" -ge "$(cat "$here/dead_from")" ]; then
  echo "Killed" >&2
  exit 1
fi
while read -r file code times; do
  [ "$file" = "$graph" ] || continue
  faults=$(grep -c "^$graph\$" "$here/faulty.txt" 2>/dev/null)
  [ "${faults:-0}" -lt "$times" ] || continue
  echo "$graph" >>"$here/faulty.txt"
  if [ "$code" = 1 ]; then
    cat "$here/recorded/garbage-graph.stdout"
    cat "$here/recorded/garbage-graph.stderr" >&2
  fi
  exit "$code"
done <"$here/faults.txt"
us=$(sed -n "s/^$graph //p" "$here/times.txt")
if [ -f "$here/slow" ]; then
  read -r first last percent <"$here/slow"
  [ "$calls" -lt "$first" ] || [ "$calls" -gt "$last" ] || us=$((us * percent / 100))
fi
recording=cpu
[ -z "$gpu" ] || [ -f "$here/has_gpu" ] || recording=gpu-no-accelerator
# The second line of statistics is that of the runs.
sed "s/ p5=[0-9]* median=[0-9]* p95=[0-9]*/ p5=$us median=$us p95=$((us + us / 50))/" \
  "$here/recorded/$recording.stdout"
cat "$here/recorded/$recording.stderr" >&2
if [ -n "$gpu" ] && [ -f "$here/has_gpu" ]; then
  nodes=12
  grep -qx "$graph" "$here/not_on_gpu.txt" 2>/dev/null && nodes=0
  echo "VERBOSE: Replacing $nodes out of 12 node(s) with delegate ($(cat "$here/has_gpu")) node," \
    "yielding 1 partitions for subgraph 0 (main)." >&2
fi
