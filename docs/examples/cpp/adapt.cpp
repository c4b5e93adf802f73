// Adapts an exported policy of 2D navigation to a hidden goal, by ONNX Runtime's C API.
//
//   metarl export RUN exported --to onnx --with adaptation      # RUN: a run of navigation2d
//   ./adapt exported
//
// No JSON and no safetensors are read: start.onnx returns theta and the state of the update rule as
// tensors, in the order in which step.onnx takes them first and returns them first.

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

namespace {

const OrtApi* api = nullptr;

void check(OrtStatus* status) {
  if (status == nullptr) return;
  std::fprintf(stderr, "onnxruntime: %s\n", api->GetErrorMessage(status));
  api->ReleaseStatus(status);
  std::exit(1);
}

// A model with the names of its inputs and outputs.
class Model {
 public:
  Model(OrtEnv* env, const std::string& path) {
    OrtSessionOptions* options = nullptr;
    check(api->CreateSessionOptions(&options));
    check(api->SetIntraOpNumThreads(options, 1));
    check(api->CreateSession(env, path.c_str(), options, &session_));
    api->ReleaseSessionOptions(options);
    OrtAllocator* allocator = nullptr;
    check(api->GetAllocatorWithDefaultOptions(&allocator));
    std::size_t count = 0;
    char* name = nullptr;
    check(api->SessionGetInputCount(session_, &count));
    for (std::size_t i = 0; i < count; ++i) {
      check(api->SessionGetInputName(session_, i, allocator, &name));
      inputs.emplace_back(name);
      check(api->AllocatorFree(allocator, name));
    }
    check(api->SessionGetOutputCount(session_, &count));
    for (std::size_t i = 0; i < count; ++i) {
      check(api->SessionGetOutputName(session_, i, allocator, &name));
      outputs.emplace_back(name);
      check(api->AllocatorFree(allocator, name));
    }
  }
  ~Model() { api->ReleaseSession(session_); }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // The values are in the order of `inputs`; the caller releases the results.
  std::vector<OrtValue*> run(const std::vector<OrtValue*>& values) const {
    std::vector<const char*> in, out;
    for (const auto& name : inputs) in.push_back(name.c_str());
    for (const auto& name : outputs) out.push_back(name.c_str());
    std::vector<OrtValue*> results(out.size(), nullptr);
    check(api->Run(session_, nullptr, in.data(), values.data(), in.size(), out.data(), out.size(),
                   results.data()));
    return results;
  }

  std::vector<std::string> inputs, outputs;

 private:
  OrtSession* session_ = nullptr;
};

// A tensor over memory of the caller, which must outlive it.
OrtValue* tensor(void* data, std::size_t bytes, const std::vector<int64_t>& shape,
                 ONNXTensorElementDataType type) {
  OrtMemoryInfo* memory = nullptr;
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  OrtValue* value = nullptr;
  check(api->CreateTensorWithDataAsOrtValue(memory, data, bytes, shape.data(), shape.size(), type,
                                            &value));
  api->ReleaseMemoryInfo(memory);
  return value;
}

OrtValue* floats(std::vector<float>& data, const std::vector<int64_t>& shape) {
  return tensor(data.data(), data.size() * sizeof(float), shape,
                ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
}

void release(const std::vector<OrtValue*>& values) {
  for (OrtValue* value : values) api->ReleaseValue(value);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: adapt FOLDER\n"), 2;
  const std::string folder = argv[1];
  api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (api == nullptr) return std::fprintf(stderr, "onnxruntime is older than its header\n"), 1;
  OrtEnv* env = nullptr;
  check(api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "metarl", &env));
  {
    const Model start(env, folder + "/start.onnx");
    const Model act(env, folder + "/act.onnx");
    const Model step(env, folder + "/step.onnx");
    const std::size_t theta = act.inputs.size() - 2;  // observations and noise come last
    const int64_t N = 20, H = 100;                    // episodes, and steps of each
    std::vector<OrtValue*> values = start.run({});    // theta, then the state of the rule
    std::mt19937 random(0);
    std::normal_distribution<float> normal;
    for (int round = 0; round < 4; ++round) {
      std::vector<float> observations(N * (H + 1) * 2, 0.0f), actions(N * H * 2), rewards(N * H);
      std::vector<int64_t> lengths(N, H);
      std::array<bool, 20> terminated{};
      double total = 0.0;
      for (int64_t n = 0; n < N; ++n) {
        std::vector<float> position(2, 0.0f), noise(2);
        for (int64_t t = 0; t < H; ++t) {
          std::generate(noise.begin(), noise.end(), [&] { return normal(random); });
          std::vector<OrtValue*> given(values.begin(), values.begin() + theta);
          OrtValue* seen = floats(position, {1, 2});
          OrtValue* drawn = floats(noise, {1, 2});
          given.insert(given.end(), {seen, drawn});
          const auto found = act.run(given);  // action, sample, std
          float* sample = nullptr;
          check(api->GetTensorMutableData(found[1], reinterpret_cast<void**>(&sample)));
          for (int i = 0; i < 2; ++i) {
            actions[(n * H + t) * 2 + i] = sample[i];  // stored before clipping
            position[i] += 0.1f * std::clamp(sample[i], -1.0f, 1.0f);  // the robot
            observations[(n * (H + 1) + t + 1) * 2 + i] = position[i];
          }
          rewards[n * H + t] = -std::hypot(position[0] - 0.3f, position[1] + 0.2f);
          total += rewards[n * H + t];
          release({seen, drawn});
          release(found);
        }
      }
      std::printf("after %d steps: return %.2f\n", round, total / N);
      const std::vector<OrtValue*> batch = {
          floats(observations, {N, H + 1, 2}), floats(actions, {N, H, 2}), floats(rewards, {N, H}),
          tensor(lengths.data(), N * sizeof(int64_t), {N}, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64),
          tensor(terminated.data(), N * sizeof(bool), {N}, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL)};
      std::vector<OrtValue*> given = values;
      given.insert(given.end(), batch.begin(), batch.end());
      std::vector<OrtValue*> moved = step.run(given);  // theta and state after the step, the return
      release(given);
      api->ReleaseValue(moved.back());
      moved.pop_back();
      values = moved;
    }
    release(values);
  }
  api->ReleaseEnv(env);
  return 0;
}
