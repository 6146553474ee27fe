#!/usr/bin/env bash
# All that the README's figures are drawn from, measured on this machine, and the figures.
#
#   bench/figures.sh PEERS FOLDER [DIR]      what FOLDER holds already is not measured again; figures into DIR
#
# PEERS is the folder that bench/peers/install.sh made. Half an hour on two cores; let nothing else run.
set -uo pipefail
peers=$(cd "${1:?the folder of the peers}" && pwd)
out=$(mkdir -p "${2:?the folder of results}" && cd "$2" && pwd)
figures=${3:-docs/figures}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH=$PWD HF_HUB_OFFLINE=1 VLLM_CACHE_ROOT=$peers/cache
python=${PYTHON:-.venv/bin/python}

"$python" -m bench.compare --peers "$peers" --out "$out/compare.jsonl" --resume --counts 1,4,16 |
  sed "s:$peers:.peers:; s:$out:${2%/}:" | tee "$out/compare.txt"

throughput() { # name, python, options...
  local name=$1 python=$2; shift 2
  [[ -s $out/throughput-$name.json ]] || "$python" -m gllm bench throughput --model-path "$peers/models/float32" \
    --max-num-seqs 64 --max-num-batched-tokens 2048 --max-model-len 2048 --kv-cache-memory-bytes 2GiB \
    --num-prompts 64 --input-len 160 --output-len 64 --random-range-ratio 0.5 --disable-tqdm \
    --output-json "$out/throughput-$name.json" "$@"
}
throughput gllm "$python" --num-threads "$(nproc)" --trace-file "$out/timeline-gllm.json"
throughput gllm-no-pipe "$python" --num-threads "$(nproc)" --disable-overlap-schedule \
  --trace-file "$out/timeline-gllm-no-pipe.json"
if [[ -x $peers/transformers/bin/python ]]; then
  OMP_NUM_THREADS=$(nproc) throughput transformers "$peers/transformers/bin/python" --backend hf --hf-max-batch-size 16
fi
if [[ -x $peers/vllm/bin/python ]]; then
  VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_CPU_KVCACHE_SPACE=2 VLLM_CPU_OMP_THREADS_BIND=0-$(($(nproc) - 1)) \
    OMP_NUM_THREADS=$(nproc) VLLM_LOGGING_LEVEL=ERROR throughput vllm "$peers/vllm/bin/python" --backend vllm
fi
"$python" -m bench.online --peers "$peers" --out "$out"
"$python" -m gllm bench figures "$out" --out "$figures"
