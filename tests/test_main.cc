// SPDX-License-Identifier: Apache-2.0
// main of every test binary: that of gmock_main, but a binary in which a test was skipped and none
// failed exits with 77, which ctest shows as skipped. By default it would show as passed. (ctest's
// SKIP_REGULAR_EXPRESSION would not do: it hides a failure beside the skipped test.)
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {
constexpr int kSkipped = 77;  // SKIP_RETURN_CODE in cmake/Palimpsest.cmake
}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  const int failed = RUN_ALL_TESTS();
  if (failed != 0) return failed;
  return testing::UnitTest::GetInstance()->skipped_test_count() > 0 ? kSkipped : 0;
}
