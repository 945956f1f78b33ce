// SPDX-License-Identifier: Apache-2.0
#include "common/base/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

namespace palimpsest {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// `promtool check metrics` on `text`: its output, empty when it has nothing to say.
std::string Lint(const std::string& text) {
  const std::string base = ::testing::TempDir() + "palimpsest_lint_" + std::to_string(getpid());
  std::ofstream(base + ".prom") << text;
  const std::string command = "promtool check metrics < " + base + ".prom > " + base + ".out 2>&1";
  const int code = std::system(command.c_str());
  std::stringstream out;
  out << std::ifstream(base + ".out").rdbuf();
  unlink((base + ".prom").c_str());
  unlink((base + ".out").c_str());
  return code == 0 ? out.str() : out.str() + "(exit code " + std::to_string(code) + ")";
}

class MetricsTest : public ::testing::Test {
 protected:
  MetricsTest()
      : store_(NewStoreMetrics(&store_registry_)), worker_(NewWorkerMetrics(&worker_registry_)) {}

  std::string StoreText() { return MetricsText(store_registry_); }
  std::string WorkerText() { return MetricsText(worker_registry_); }

  prometheus::Registry store_registry_;
  prometheus::Registry worker_registry_;
  std::unique_ptr<StoreMetrics> store_;
  std::unique_ptr<WorkerMetrics> worker_;
};

TEST_F(MetricsTest, PromtoolFindsNoFault) {
  if (std::system("command -v promtool > /dev/null 2>&1") != 0) {
    GTEST_SKIP() << "promtool is not installed (Debian package: prometheus)";
  }
  store_->process.peer_up.Set("worker-0", true);
  worker_->process.peer_up.Set("store-0", true);
  EXPECT_EQ(Lint(StoreText()), "");
  EXPECT_EQ(Lint(WorkerText()), "");
  EXPECT_THAT(Lint("# HELP a_requests x\n# TYPE a_requests counter\na_requests 1\n"),
              HasSubstr("_total"))
      << "the linter works";
}

TEST_F(MetricsTest, EverySeriesExistsFromTheStart) {
  for (const char* line :
       {"palimpsest_sequences{state=\"awaiting_snapshot\"} 0",
        "palimpsest_stats_batches_total{result=\"stale\"} 0",
        "palimpsest_stats_lag_seconds_count 0", "palimpsest_stats_gaps_total 0",
        "palimpsest_thoughts_classified_total{class=\"reasoning\"} 0",
        "palimpsest_orders_total{kind=\"evict\",result=\"stale_epoch\"} 0",
        "palimpsest_order_duration_seconds_count{kind=\"quantize\"} 0",
        "palimpsest_orders_inflight 0", "palimpsest_admission_rejections_total{reason=\"pool\"} 0",
        "palimpsest_lease_expirations_total{role=\"worker\"} 0",
        "palimpsest_rpc_requests_total{code=\"stale_epoch\",method=\"report\"} 0",
        "palimpsest_connection_rejections_total{reason=\"framing\"} 0",
        "palimpsest_event_loop_lag_seconds_count 0", "palimpsest_heartbeat_rtt_seconds_count 0",
        "palimpsest_reregistrations_total 0",
        "palimpsest_classification_duration_seconds_count 0"}) {
    EXPECT_THAT(StoreText(), HasSubstr(std::string(line) + "\n"));
  }
  for (const char* line :
       {"palimpsest_pages{format=\"any\",state=\"free\"} 0",
        "palimpsest_pages{format=\"nvfp4/ternary\",state=\"resident\"} 0",
        "palimpsest_page_bytes{format=\"bf16\"} 0", "palimpsest_pool_capacity_bytes 0",
        "palimpsest_pool_used_bytes 0", "palimpsest_bytes_saved{by=\"evict\"} 0",
        "palimpsest_live_tokens 0", "palimpsest_decode_tokens_total{phase=\"prefill\"} 0",
        "palimpsest_decode_step_duration_seconds_count 0",
        "palimpsest_kernel_duration_seconds_count{kernel=\"matmul\"} 0",
        "palimpsest_kernel_duration_seconds_count{kernel=\"device\"} 0",
        "palimpsest_store_fallback_active 0", "palimpsest_sequences{state=\"decode\"} 0",
        "palimpsest_rpc_connections 0"}) {
    EXPECT_THAT(WorkerText(), HasSubstr(std::string(line) + "\n"));
  }
}

TEST_F(MetricsTest, EachLabelReachesItsOwnSeries) {
  store_->process.orders_total[{OrderKind::kEvict, OrderResult::kFailed}].Increment(3);
  store_->process.rpc_requests_total[{RpcMethod::kClose, RpcCode::kRefused}].Increment();
  store_->stats_gaps_total.Increment();
  store_->thoughts_classified_total[Thought::kExecution].Increment();
  store_->process.stats_batches_total[StatsResult::kDropped].Increment(2);
  EXPECT_THAT(StoreText(), HasSubstr("orders_total{kind=\"evict\",result=\"failed\"} 3\n"));
  EXPECT_THAT(StoreText(), HasSubstr("requests_total{code=\"refused\",method=\"close\"} 1\n"));
  EXPECT_THAT(StoreText(), HasSubstr("classified_total{class=\"execution\"} 1\n"));
  EXPECT_THAT(StoreText(), HasSubstr("batches_total{result=\"dropped\"} 2\n"));
  worker_->pages_resident[{Format::kTernary, Format::kFp8}].Set(5);
  worker_->page_bytes[{Format::kTernary, Format::kTernary}].Set(7);
  worker_->kernel_duration_seconds[KernelKind::kSeal].Observe(0.002);
  EXPECT_THAT(WorkerText(), HasSubstr("pages{format=\"ternary/fp8\",state=\"resident\"} 5\n"));
  EXPECT_THAT(WorkerText(), HasSubstr("page_bytes{format=\"ternary\"} 7\n"));
  EXPECT_THAT(WorkerText(), HasSubstr("duration_seconds_count{kernel=\"seal\"} 1\n"));
  ASSERT_NE(worker_->kernel_duration_seconds.Find("anneal"), nullptr);
  EXPECT_EQ(worker_->kernel_duration_seconds.Find("anneal"),
            &worker_->kernel_duration_seconds[KernelKind::kAnneal]);
  EXPECT_EQ(worker_->kernel_duration_seconds.Find("nonsense"), nullptr);
}

TEST_F(MetricsTest, BuildInfoSaysWhatWasBuilt) {
  EXPECT_THAT(StoreText(), HasSubstr("palimpsest_build_info{commit=\""));
  EXPECT_THAT(WorkerText(), HasSubstr(",version=\""));
}

TEST_F(MetricsTest, PeersAreBoundedAndCannotForgeLines) {
  PeerGauges& peers = store_->process.peer_up;
  peers.Set("a\"} 1\nforged 1", true);
  EXPECT_THAT(StoreText(), Not(HasSubstr("\nforged")));
  for (size_t i = 0; i < 2 * PeerGauges::kPeersMax; ++i) peers.Set(std::to_string(i), true);
  peers.Set("3", false);
  EXPECT_THAT(StoreText(), HasSubstr("peer_up{peer=\"3\"} 0\n"));
  EXPECT_THAT(StoreText(), HasSubstr("peer_up{peer=\"other\"} 1\n"));
  size_t series = 0;
  for (size_t at = 0; (at = StoreText().find("palimpsest_peer_up{", at)) != std::string::npos;
       ++at) {
    ++series;
  }
  EXPECT_LE(series, PeerGauges::kPeersMax + 1);
  peers.Remove("3");
  peers.Remove("never seen");
  EXPECT_THAT(StoreText(), Not(HasSubstr("peer=\"3\"")));
}

}  // namespace
}  // namespace palimpsest
