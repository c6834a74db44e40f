// Runs every signature of a SavedModel with TensorFlow's C++ loader: no Python, no Keras.
//
//   probe SAVED_MODEL IMAGE FLOATS N HEIGHT WIDTH
//
// IMAGE is an encoded image, fed to string inputs; FLOATS holds N×HEIGHT×WIDTH×3 native float32, fed to float inputs.
// Prints a line an output, tab-separated: signature, output, dtype, shape, and one value after another.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"

namespace tf = tensorflow;

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  std::exit(1);
}

std::string Read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  tf::Tensor image(tf::DT_STRING, {1});
  image.flat<tf::tstring>()(0) = Read(argv[2]);
  tf::Tensor images(tf::DT_FLOAT, {std::atoll(argv[4]), std::atoll(argv[5]), std::atoll(argv[6]), 3});
  const std::string floats = Read(argv[3]);
  if (floats.size() != images.TotalBytes()) return 2;
  std::copy(floats.begin(), floats.end(), static_cast<char*>(images.data()));

  tf::SavedModelBundle bundle;
  Check(tf::LoadSavedModel({}, {}, argv[1], {"serve"}, &bundle));
  for (const auto& [signature, def] : bundle.GetSignatures()) {
    if (def.method_name().empty()) continue;  // the initialisation, which has run
    std::vector<std::pair<std::string, tf::Tensor>> inputs;
    std::vector<std::string> names, keys;
    for (const auto& [key, input] : def.inputs())
      inputs.emplace_back(input.name(), input.dtype() == tf::DT_STRING ? image : images);
    for (const auto& [key, output] : def.outputs()) {
      keys.push_back(key);
      names.push_back(output.name());
    }
    std::vector<tf::Tensor> outputs;
    Check(bundle.GetSession()->Run(inputs, names, {}, &outputs));
    for (size_t i = 0; i < outputs.size(); ++i) {
      const tf::Tensor& output = outputs[i];
      std::printf("%s\t%s\t%s\t", signature.c_str(), keys[i].c_str(), tf::DataTypeString(output.dtype()).c_str());
      for (int d = 0; d < output.dims(); ++d) std::printf("%s%lld", d ? "," : "", (long long)output.dim_size(d));
      for (int64_t j = 0; j < output.NumElements(); ++j)
        if (output.dtype() == tf::DT_STRING)
          std::printf("\t%s", output.flat<tf::tstring>()(j).c_str());
        else
          std::printf("\t%.9g", output.flat<float>()(j));
      std::printf("\n");
    }
  }
}
