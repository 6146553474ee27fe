#!/usr/bin/env bash
# All that the README's figures are drawn from, measured on this machine, and the figures.
#
#   bench/figures.sh PEERS FOLDER [DIR]      what FOLDER holds already is not measured again; figures into DIR
#
# PEERS is the folder that bench/peers/install.sh made. Takes 25 minutes on two cores; let nothing else run.
# ROUNDS (3) of the comparison, and LOAD_S (15) seconds of load at each request rate, may be set to shorten it.
set -uo pipefail
peers=$(cd "${1:?the folder of the peers}" && pwd)
out=$(mkdir -p "${2:?the folder of results}" && cd "$2" && pwd)
figures=${3:-docs/figures}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH=$PWD HF_HUB_OFFLINE=1 VLLM_CACHE_ROOT=$peers/cache
python=${PYTHON:-.venv/bin/python}
cores=$(nproc)
trap 'exit 143' TERM INT

compare() { # dtypes
  "$python" -m bench.compare --peers "$peers" --out "$out/compare.jsonl" --resume --counts 1,4,16 \
    --rounds "${ROUNDS:-3}" --dtypes "$1"
}
throughput() { # name, python, options...
  local name=$1 python=$2; shift 2
  [[ -s $out/throughput-$name.json ]] || "$python" -m gllm bench throughput --model-path "$peers/models/float32" \
    --dtype float32 --max-num-seqs 64 --max-num-batched-tokens 2048 --max-model-len 2048 \
    --kv-cache-memory-bytes 2GiB --num-prompts 64 --input-len 160 --output-len 64 \
    --random-range-ratio 0.5 --disable-tqdm \
    --output-json "$out/throughput-$name.json" "$@"
}

compare float32
throughput gllm "$python" --num-threads "$cores" --trace-file "$out/timeline-gllm.json"
throughput gllm-no-pipe "$python" --num-threads "$cores" --disable-overlap-schedule \
  --trace-file "$out/timeline-gllm-no-pipe.json"
if [[ -x $peers/transformers/bin/python ]]; then
  OMP_NUM_THREADS=$cores throughput transformers "$peers/transformers/bin/python" \
    --backend hf --hf-max-batch-size 16
fi
if [[ -x $peers/vllm/bin/python ]]; then
  VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_CPU_KVCACHE_SPACE=2 VLLM_CPU_OMP_THREADS_BIND=0-$((cores - 1)) \
    OMP_NUM_THREADS=$cores VLLM_LOGGING_LEVEL=ERROR throughput vllm "$peers/vllm/bin/python" --backend vllm
fi
"$python" -m bench.online --peers "$peers" --out "$out" --seconds "${LOAD_S:-15}"
compare bfloat16
# The places of this machine are nobody's business.
sed -i "s:$peers:.peers:g; s:$out:$(basename "$out"):g" "$out"/*.json*
"$python" -m bench.compare --show "$out/compare.jsonl" | tee "$out/compare.txt"
"$python" -m gllm bench figures "$out" --out "$figures"
