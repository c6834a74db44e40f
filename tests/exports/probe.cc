// Runs every signature of a SavedModel with TensorFlow's C++ loader: no Python, no Keras.
//
//   probe SAVED_MODEL FLOATS N HEIGHT WIDTH IMAGE...
//
// FLOATS holds N×HEIGHT×WIDTH×3 native float32, fed to float inputs; the IMAGEs are encoded images, fed together to
// `image_bytes`, and each in a tf.Example to `inputs`. Every signature runs on them, and then on none.
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
#include "tensorflow/core/example/example.pb.h"
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

tf::Tensor None(const tf::Tensor& tensor) { return tensor.Slice(0, 0); }

int main(int argc, char** argv) {
  if (argc < 6) return 2;
  const int files = argc - 6;
  tf::Tensor encoded(tf::DT_STRING, {files}), examples(tf::DT_STRING, {files});
  for (int i = 0; i < files; ++i) {
    tf::Example example;
    auto& feature = (*example.mutable_features()->mutable_feature())["image/encoded"];
    feature.mutable_bytes_list()->add_value(Read(argv[6 + i]));
    encoded.flat<tf::tstring>()(i) = feature.bytes_list().value(0);
    examples.flat<tf::tstring>()(i) = example.SerializeAsString();
  }
  tf::Tensor images(tf::DT_FLOAT, {std::atoll(argv[3]), std::atoll(argv[4]), std::atoll(argv[5]), 3});
  const std::string floats = Read(argv[2]);
  if (floats.size() != images.TotalBytes()) return 2;
  std::copy(floats.begin(), floats.end(), static_cast<char*>(images.data()));

  tf::SavedModelBundle bundle;
  Check(tf::LoadSavedModel({}, {}, argv[1], {"serve"}, &bundle));
  for (const auto& [signature, def] : bundle.GetSignatures()) {
    if (def.method_name().empty()) continue;  // the initialisation, which has run
    std::vector<std::pair<std::string, tf::Tensor>> inputs;
    std::vector<std::string> names, keys;
    for (const auto& [key, input] : def.inputs())
      inputs.emplace_back(input.name(), key == "image_bytes" ? encoded : key == "inputs" ? examples : images);
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
    for (auto& [name, tensor] : inputs) tensor = None(tensor);
    Check(bundle.GetSession()->Run(inputs, names, {}, &outputs));
    for (const tf::Tensor& output : outputs)
      if (output.dim_size(0) != 0) Check(absl::InternalError(signature + " makes something of nothing"));
  }
}
