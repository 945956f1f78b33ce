// SPDX-License-Identifier: Apache-2.0
// What only a machine with a GPU can show of devices.
#include "services/decode/device/cuda_device.h"

#include "gtest/gtest.h"
#include "tests/decode/device/small_device.h"

namespace palimpsest {
namespace {

TEST(CudaDevice, TheFirstGpuIsTakenWhereThereIsOne) {
  DeviceOptions options = Options(DeviceKind::kAuto);
  options.source.folder.clear();
  options.source.synthetic = "tiny";
  options.source.config.head_dim = 64;
  options.pool_bytes = 16 << 20;
  const absl::Status usable = NewCudaDevice(0, options).status();
  if (absl::IsUnavailable(usable)) GTEST_SKIP() << usable.message();
  absl::StatusOr<Device> device = NewDevice(options);
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ(device->name, "cuda:0");
  EXPECT_EQ(device->why_not_cuda, "");
  EXPECT_TRUE(device->asynchronous);
  EXPECT_TRUE(device->model->may_observe(1));
  ExpectWorks(*device);
}

}  // namespace
}  // namespace palimpsest
