// SPDX-License-Identifier: Apache-2.0
#include "tests/kernels/conformance/backend_conformance.h"
#include "tests/kernels/conformance/cpu_adapter.h"

namespace palimpsest {
namespace {

std::unique_ptr<DeviceAdapter> NewCpuAdapter() { return std::make_unique<CpuAdapter>(); }

INSTANTIATE_TEST_SUITE_P(Cpu, BackendConformance, ConformanceCases(&NewCpuAdapter),
                         ConformanceCaseName);

}  // namespace
}  // namespace palimpsest
