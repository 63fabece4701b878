#!/bin/sh
# Measure the files of this bundle on this phone: `sh run.sh`. The same command resumes.
#
# It needs what every Android has had since 6.0: a POSIX shell (mksh) and toybox. nas, Python, root
# and a computer are not needed, so that adb, a device farm's shell or a terminal app can run it.
# `nas.devices.android.carried` wrote settings.txt and files.txt, and reads the folder results.

say() { printf '%s\n' "$*"; }
stop() {
  printf 'run.sh: %s\n' "$*" >&2
  exit 1
}

case $0 in
*/*) cd "${0%/*}" || exit 1 ;;
esac
here=$PWD

# --- Settings: one `key value` a line. Values are data, never evaluated as commands. -------------
bundle= unit= precision= threads= mask= sha256= models= chips= libraries=
warm_up_s= run_s= most_s= least_runs= loads= most_loads= spread_percent= limit_s=
every= bound_percent= pauses_s= hot= cool_down_s= look_s= gpu=
while read -r key value; do
  case $key in
  bundle) bundle=$value ;;
  unit) unit=$value ;;
  precision) precision=$value ;;
  threads) threads=$value ;;
  mask) mask=$value ;;
  sha256) sha256=$value ;;
  model) models="$models$value
" ;;
  chip) chips="$chips$value
" ;;
  library) libraries="$libraries $value" ;;
  gpu) gpu=$value ;;
  warm_up_s) warm_up_s=$value ;;
  run_s) run_s=$value ;;
  most_s) most_s=$value ;;
  least_runs) least_runs=$value ;;
  loads) loads=$value ;;
  most_loads) most_loads=$value ;;
  spread_percent) spread_percent=$value ;;
  limit_s) limit_s=$value ;;
  every) every=$value ;;
  bound_percent) bound_percent=$value ;;
  pauses_s) pauses_s=$value ;;
  hot) hot=$value ;;
  cool_down_s) cool_down_s=$value ;;
  look_s) look_s=$value ;;
  esac
done <settings.txt || exit 1
[ -n "$bundle" ] || stop "settings.txt: is damaged. Fix: copy the bundle again"

results=$here/results
work=$results/.work
mkdir -p "$results" 2>/dev/null && : 2>/dev/null >"$results/.writable" ||
  stop "$results: cannot be written. Fix: adb push the bundle to /data/local/tmp, and run it there"

# --- One run at a time. The process of a lock that a kill left behind is gone. --------------------
if ! mkdir "$results/.lock" 2>/dev/null; then
  owner=$(cat "$results/.lock/pid" 2>/dev/null)
  if [ -n "$owner" ] && kill -0 "$owner" 2>/dev/null; then
    stop "another run.sh measures this bundle (process $owner). Fix: wait for it to end"
  fi
fi
echo $$ >"$results/.lock/pid"
leave() { rm -rf "$results/.lock" "$work"; }
trap leave EXIT
trap 'leave; trap - EXIT; exit 130' INT TERM HUP
rm -rf "$work"
mkdir "$work" || exit 1

# --- The phone: what it says of itself, and whether it is the one that was meant. ------------------
property() { getprop "$1" 2>/dev/null; }
matches() { # value, patterns of a shell (one a line; none match everything)
  [ -n "$2" ] || return 0
  found=1
  set -f
  IFS='
'
  for pattern in $2; do
    case $1 in
    $pattern) found=0 ;;
    esac
  done
  unset IFS
  set +f
  return $found
}
model=$(property ro.product.model)
chip=$(property ro.soc.model)
abi=$(property ro.product.cpu.abi)
release=$(property ro.build.version.release)
build=$(property ro.build.display.id)
[ -n "$model" ] || stop "this is not an Android phone (getprop has no ro.product.model)"
[ "$abi" = arm64-v8a ] ||
  stop "benchmark_model does not run on this processor (got $abi, expected arm64-v8a)"
if ! matches "$model" "$models" || ! matches "$chip" "$chips"; then
  stop "this is another phone (got model '$model' with chip '$chip', expected" \
    "$(printf '%s' "$models$chips" | tr '\n' ' ')). Fix: write a bundle for this one"
fi
{
  say "bundle $bundle"
  say "model $model"
  say "chip $chip"
  say "android $release"
} >"$work/same"
if [ -f "$results/device.txt" ]; then
  while read -r line; do
    grep -qxF -e "$line" "$results/device.txt" ||
      stop "results/device.txt: is of another phone, system or bundle (lacks '$line')." \
        "Fix: move the folder results away"
  done <"$work/same"
fi

# --- The tool. Shared storage forbids programs, so that they may need another folder. -------------
hash_of() { sha256sum "$1" 2>/dev/null | { read -r hash rest; echo "$hash"; }; }
if [ -n "$(hash_of settings.txt)" ]; then hashes=yes; else hashes=; fi
[ -z "$hashes" ] || [ "$(hash_of benchmark_model)" = "$sha256" ] ||
  stop "benchmark_model: is damaged (its checksum differs). Fix: copy the bundle again"
home=
for folder in "$here" "/data/local/tmp/nas-$bundle"; do
  if [ "$folder" != "$here" ]; then
    mkdir -p "$folder" 2>/dev/null || continue
    cp benchmark_model $libraries "$folder" 2>/dev/null || continue
  fi
  chmod 755 "$folder/benchmark_model" 2>/dev/null
  "$folder/benchmark_model" --help >/dev/null 2>&1
  # The shell's codes for a program that it may not execute or does not find.
  case $? in 126 | 127) continue ;; esac
  home=$folder
  break
done
[ -n "$home" ] ||
  stop "no program may run in $here. Fix: adb push the bundle to /data/local/tmp, and run it there"

limit=
timeout 5 true 2>/dev/null && limit="timeout $limit_s"
cores_now() { # the cores that a program may use when it is started as the tool is
  if [ -n "$mask" ]; then
    taskset "$mask" cat /proc/self/status 2>/dev/null
  else
    cat /proc/self/status
  fi | sed -n 's/^Cpus_allowed_list:[[:space:]]*//p'
}
cores=$(cores_now)
if [ -n "$mask" ] && [ -z "$cores" ]; then
  stop "threads cannot be pinned to the cores of mask $mask. Fix: wake the phone and run again, or" \
    "write the bundle with --affinity of cores that are online"
fi
if [ -f "$results/device.txt" ]; then
  grep -qxF -e "cores $cores" "$results/device.txt" ||
    stop "the cores differ from those of the results so far (got $cores, expected" \
      "$(sed -n 's/^cores //p' "$results/device.txt")). Fix: wake the phone and run again"
else
  {
    say "nas-phone-1"
    cat "$work/same"
    say "build $build"
    say "cores $cores"
    say "online $(cat /sys/devices/system/cpu/online 2>/dev/null)"
    say "date $(date +%Y-%m-%d)"
  } >"$work/device"
  mv "$work/device" "$results/device.txt" || exit 1
fi

# --- One file ---------------------------------------------------------------------------------------
run_tool() { # file; sets code and writes $work/log
  set -- "$home/benchmark_model" "--graph=$1" "--num_threads=$threads" --warmup_runs=1 \
    "--warmup_min_secs=$warm_up_s" "--num_runs=$least_runs" "--min_secs=$run_s" \
    "--max_secs=$most_s"
  [ "$unit" = gpu ] && set -- "$@" --use_gpu=true "--gpu-precision=$precision"
  [ -n "$limit" ] && set -- $limit "$@"
  [ -n "$mask" ] && set -- taskset "$mask" "$@"
  LD_LIBRARY_PATH=$home "$@" >"$work/log" 2>&1
  code=$?
}
read_median() { # sets us to the whole microseconds of the second line with count=; empty without one
  line=$(sed -n -e 's/^INFO: //' -e '/^count=[0-9]/p' "$work/log" | sed -n 2p)
  us=
  case $line in
  count=0*) return ;;
  *' median='*) us=${line##* median=} ;;
  *' avg='*) us=${line##* avg=} ;;
  *' curr='*) us=${line##* curr=} ;;
  esac
  us=${us%%[!0-9]*}
}
thermal_state() { dumpsys thermalservice 2>/dev/null | sed -n 's/^ *Thermal Status: \([0-9]*\).*/\1/p'; }
cool_down() { # sets heat, after a wait where the phone is hot
  heat=$(thermal_state)
  waited=0
  while [ -n "$heat" ] && [ "$heat" -ge "$hot" ] && [ "$waited" -lt "$cool_down_s" ]; do
    say "the phone is hot (thermal state $heat): waiting, put it somewhere cool"
    sleep "$look_s"
    waited=$((waited + look_s))
    heat=$(thermal_state)
  done
}
try() { # file; appends to $work/result, sets state to ok, failed or killed, and us to the median
  cool_down
  {
    say "cores $(cores_now)"
    say "thermal ${heat:-unknown}"
  } >"$work/result"
  : >"$work/medians"
  state=ok
  load=0
  while [ $load -lt "$loads" ] || { [ $load -lt "$most_loads" ] && ! agree; }; do
    run_tool "$1"
    say "load $code" >>"$work/result"
    sed 's/^/| /' "$work/log" >>"$work/result"
    read_median
    case $code in
    0) [ -n "$us" ] || state=failed ;;
    137) state=killed ;;
    *) state=failed ;;
    esac
    [ $state = ok ] || return
    say "$us" >>"$work/medians"
    load=$((load + 1))
  done
  us=$(sort -n "$work/medians" | sed -n "$((load / 2 + 1))p")
}
agree() { # whether the medians of the loads lie within spread_percent of each other
  low=$(sort -n "$work/medians" | sed -n 1p)
  high=$(sort -n "$work/medians" | sed -n '$p')
  # One microsecond is added, as the tool counts whole ones.
  [ $((100 * high)) -le $((spread_percent * low + 100)) ]
}
lost() {
  say "the last lines of benchmark_model:" >&2
  tail -n 3 "$work/log" >&2
  stop "the phone does not measure any more (the empty file does not run either, exit code $code)." \
    "Results are kept. Fix: restart the phone, then run the same command again"
}
check_cores() { # figures of other cores do not belong into one table
  now=$(cores_now)
  [ "$now" = "$cores" ] ||
    stop "the cores changed (got ${now:-none}, expected $cores): one fell asleep, or the phone went to" \
      "the background. Results are kept. Fix: wake the phone, then run the same command again"
}
check_control() { # a failure is the file's own only where the empty file still runs
  check_cores
  run_tool "$here/$control"
  read_median
  [ $code -eq 0 ] && [ -n "$us" ] || lost
}
measure() { # digest, file; writes results/DIGEST.txt and sets state and us
  check_cores
  try "$here/$2"
  if [ $state != ok ]; then
    # Once more, alone, after a pause: what passes must not be taken for a property of the file.
    check_control
    sleep 2
    try "$here/$2"
    [ $state = ok ] || check_control
  fi
  {
    say "nas-phone-result-1 $1"
    cat "$work/result"
    say "state $state"
  } >"$work/written"
  # The name comes last: a run that is cut off leaves no half result.
  mv "$work/written" "$results/$1.txt" || stop "$results: cannot be written. Fix: make room"
}
state_of() { sed -n 's/^state //p' "$results/$1.txt" 2>/dev/null; }

# --- Drift: the first stack that runs is the reference, measured again after every few files. -------
reference= reference_us=
if [ -f "$results/reference.txt" ]; then
  read -r reference reference_us <"$results/reference.txt"
fi
drifted() { # whether the reference is out of bounds now
  run_tool "$here/$reference"
  read_median
  [ $code -eq 0 ] && [ -n "$us" ] || lost
  drift=$((100 * (us - reference_us) / reference_us))
  say "$(date +%s) $us $drift" >>"$results/drift.txt"
  [ "$drift" -gt "$bound_percent" ] || [ "$drift" -lt "-$bound_percent" ]
}
look() {
  if [ -n "$reference" ] && [ -n "$since" ] && drifted; then
    stayed=yes
    for pause in $pauses_s; do
      say "the phone is $drift % off its first speed: waiting $pause s"
      sleep "$pause"
      drifted || { stayed= && break; }
    done
    for entry in $since; do
      digest=${entry%%:*}
      if [ -z "$stayed" ]; then
        measure "$digest" "${entry#*:}"
      else
        say "note drift" >>"$results/$digest.txt"
      fi
    done
  fi
  since=
}

# --- All files ----------------------------------------------------------------------------------------
control=$(sed -n 's/^[^ ]* empty [^ ]* //p' files.txt)
total=$(($(wc -l <files.txt)))
[ -n "$control" ] || stop "files.txt: is damaged. Fix: copy the bundle again"
first=yes placed= measured=0 before=0 failed=0 killed=0 number=0 since= count=0
begin=$(date +%s)
while read -r digest role hash file <&3; do
  number=$((number + 1))
  if [ "$(state_of "$digest")" = ok ]; then
    before=$((before + 1))
    continue
  fi
  [ -f "$file" ] || stop "$file: is missing. Fix: copy the bundle again"
  [ -z "$hashes" ] || [ "$(hash_of "$file")" = "$hash" ] ||
    stop "$file: is damaged (its checksum differs). Fix: copy the bundle again"
  if [ -n "$first" ]; then
    check_control
    if [ "$unit" = gpu ] && grep -q 'GPU accelerator could not be loaded' "$work/log"; then
      stop "benchmark_model finds no GPU library and would measure the CPU. Fix: write the bundle" \
        "with NAS_GPU_ACCELERATOR=FILE, libLiteRtClGlAccelerator.so of the tool's LiteRT release"
    fi
    first=
  fi
  measure "$digest" "$file"
  case $state in
  ok) measured=$((measured + 1)) ;;
  killed)
    killed=$((killed + 1))
    say "$file: was killed twice (out of memory). The same command tries it again"
    ;;
  failed)
    failed=$((failed + 1))
    say "$file: cannot run here: $(grep -m 1 -E '(ERROR|FATAL): ' "$work/result" | sed 's/^| //')"
    ;;
  esac
  if [ $state = ok ] && [ "$unit" = gpu ] && [ -z "$placed" ] && [ "$role" != empty ]; then
    # Only the log says where the graph ran. Without a GPU delegate in it, this was the CPU.
    if ! grep -qiE "Replacing [1-9][0-9]* out of [0-9]+ node\(s\) with delegate \(($gpu)\)" \
      "$work/result"; then
      rm -f "$results/$digest.txt"
      stop "the log of benchmark_model names no GPU delegate: it measured the CPU. Fix: a" \
        "bundle with --unit cpu, or written with another library as NAS_GPU_ACCELERATOR"
    fi
    placed=yes
  fi
  if [ $state = ok ]; then
    since="$since $digest:$file"
    if [ -z "$reference" ] && [ "$role" = stack ] && [ "$us" -ge 200 ]; then
      reference=$file reference_us=$us
      say "$reference $reference_us" >"$results/reference.txt"
    fi
  fi
  count=$((count + 1))
  [ $((count % every)) -ne 0 ] || look
  passed=$(($(date +%s) - begin))
  say "$number/$total files, about $((passed * (total - number) / count / 60)) min left"
done 3<files.txt
look

say "$total files: $measured measured now, $before before, $failed cannot run, $killed killed"
say "next: adb pull $results into the bundle at home, and run there: nas profile --merge BUNDLE"
[ $killed -eq 0 ] && [ $((measured + before)) -gt 0 ]
