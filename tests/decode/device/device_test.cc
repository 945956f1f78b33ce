// SPDX-License-Identifier: Apache-2.0
#include "services/decode/device/device.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/decode/device/small_device.h"

namespace palimpsest {
namespace {

using testing::HasSubstr;

TEST(DeviceChoice, IsReadAndShownAlike) {
  for (const std::string text : {"auto", "cpu", "cuda", "cuda:3"}) {
    const auto choice = ParseDeviceChoice(text);
    ASSERT_TRUE(choice.ok()) << text;
    EXPECT_EQ(FormatDeviceChoice(*choice), text);
  }
  EXPECT_EQ(ParseDeviceChoice("cuda:0")->kind, DeviceKind::kCuda);
  EXPECT_EQ(ParseDeviceChoice("cuda:3")->index, 3);
}

TEST(DeviceChoice, AnythingElseIsAnsweredWithWhatIsAllowed) {
  for (const char* text : {"", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cuda1",
                           "cuda:99999999999", "cpu:0", "auto:0"}) {
    const absl::Status status = ParseDeviceChoice(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(status.ToString(), HasSubstr("cuda:N"));
  }
}

TEST(FindModel, WantsAFolderOrAShapeAndSaysSo) {
  for (const char* folder : {"", "tests/decode/model/data/qwen2"}) {
    const std::string synthetic = *folder == 0 ? "" : "smollm2-135m";
    const absl::Status status = FindModel(folder, synthetic).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.ToString(), HasSubstr("model: required"));
    EXPECT_THAT(status.ToString(), HasSubstr("--synthetic-weights"));
  }
  EXPECT_EQ(FindModel("", "nosuch").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FindModel("no/such/folder", "").status().code(), absl::StatusCode::kNotFound);
}

TEST(FindModel, ASyntheticModelIsAnnouncedAsOne) {
  const ModelSource source = *FindModel("", "qwen3-8b");
  EXPECT_TRUE(source.is_synthetic());
  EXPECT_THAT(source.name(), HasSubstr("synthetic"));
  EXPECT_THAT(source.name(), HasSubstr("qwen3-8b"));
  EXPECT_EQ(source.config.layers, 36);
  const ModelSource folder = *FindModel("tests/decode/model/data/qwen2", "");
  EXPECT_FALSE(folder.is_synthetic());
  EXPECT_EQ(folder.name(), "tests/decode/model/data/qwen2");
}

TEST(NewDevice, OnTheCpuHasABackendAndAModel) {
  absl::StatusOr<Device> device = NewDevice(Options(DeviceKind::kCpu));
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ(device->name, "cpu");
  EXPECT_FALSE(device->asynchronous);
  EXPECT_EQ(device->model->rows_max(), 32);
  ExpectWorks(*device);
}

TEST(NewDevice, SyntheticWeightsAreThoseOfTheShape) {
  DeviceOptions options = Options(DeviceKind::kCpu);
  options.source.folder.clear();
  options.source.synthetic = "tiny";
  absl::StatusOr<Device> device = NewDevice(options);
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ(device->model->config().hidden_size, options.source.config.hidden_size);
  ExpectWorks(*device);
}

TEST(NewDevice, AShapeLargerThanTheMachinesMemoryIsRefusedOnTheCpu) {
  DeviceOptions options = Options(DeviceKind::kCpu);
  options.source = *FindModel("", "qwen2.5-14b");
  options.source.config.layers = 1 << 20;
  const absl::Status status = NewDevice(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.ToString(), HasSubstr("synthetic_weights: qwen2.5-14b"));
}

TEST(NewDevice, AutoIsTheCpuWhereNoGpuWillDoAndTellsWhy) {
  // head_dim 16 has no CUDA kernels, wherever this runs.
  absl::StatusOr<Device> device = NewDevice(Options(DeviceKind::kAuto));
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ(device->name, "cpu");
  EXPECT_NE(device->why_not_cuda, "");
  ExpectWorks(*device);
}

TEST(NewDevice, AGpuThatWillNotDoIsRefusedByTheSettingsName) {
  const absl::Status status = NewDevice(Options(DeviceKind::kCuda)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.ToString(), HasSubstr("device: cuda: "));
  EXPECT_THAT(status.ToString(), HasSubstr("allowed here: auto, cpu"));
}

}  // namespace
}  // namespace palimpsest
