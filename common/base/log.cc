// SPDX-License-Identifier: Apache-2.0
// spdlog does the time stamp, the level, the lock and the write; the record is put together here.
#include "common/base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cmath>
#include <exception>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/settings.h"
#include "common/base/text.h"

namespace palimpsest {
namespace {

constexpr size_t kMessageBytesMax = 1024;
constexpr size_t kValueBytesMax = 2048;

// Pure ASCII, whatever comes in: the rest is \uNNNN, and bytes that are not UTF-8 are U+FFFD.
std::string JsonString(absl::string_view text, size_t bytes_max) {
  std::string shown(text.substr(0, bytes_max));
  if (text.size() > bytes_max) {
    absl::StrAppend(&shown, "...(+", text.size() - bytes_max, " bytes)");
  }
  return nlohmann::json(shown).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

std::string TextValue(absl::string_view text) {
  const std::string escaped = Escaped(text, kValueBytesMax);
  if (!escaped.empty() && escaped.find_first_of(" =\"") == std::string::npos) return escaped;
  return absl::StrCat("\"", absl::StrReplaceAll(escaped, {{"\"", "\\\""}}), "\"");
}

std::string FieldValue(const LogField& field, bool json) {
  if (const auto* text = std::get_if<absl::string_view>(&field.value)) {
    return json ? JsonString(*text, kValueBytesMax) : TextValue(*text);
  }
  if (const auto* number = std::get_if<double>(&field.value)) {
    // JSON has no infinities; as text they are at least seen.
    const std::string shown = absl::StrCat(*number);
    return json && !std::isfinite(*number) ? absl::StrCat("\"", shown, "\"") : shown;
  }
  if (const auto* yes = std::get_if<bool>(&field.value)) return *yes ? "true" : "false";
  if (const auto* number = std::get_if<int64_t>(&field.value)) return absl::StrCat(*number);
  return absl::StrCat(std::get<uint64_t>(field.value));
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
    case LogLevel::kOff:
      break;
  }
  return spdlog::level::off;
}

class SpdLog final : public Log {
 public:
  explicit SpdLog(LogOptions options)
      : json_(options.format == LogFormat::kJson), logger_(options.program, MakeSink(options)) {
    const std::string program = Escaped(options.program, 64);
    // The pattern is ours alone: a % in the name would be read by spdlog.
    const std::string name = absl::StrReplaceAll(program, {{"%", "%%"}});
    constexpr char kTime[] = "%Y-%m-%dT%H:%M:%S.%eZ";
    const std::string pattern =
        json_ ? absl::StrCat("{\"ts\":\"", kTime,
                             "\",\"level\":\"%l\",\"program\":", JsonString(name, 64), ",%v}")
              : absl::StrCat(kTime, " %l ", name, " %v");
    logger_.set_formatter(
        std::make_unique<spdlog::pattern_formatter>(pattern, spdlog::pattern_time_type::utc));
    logger_.set_level(ToSpdlog(options.level));
    logger_.flush_on(spdlog::level::trace);
    // A full disk or a closed stderr must not stop the service, and there is nowhere to tell it.
    logger_.set_error_handler([](const std::string&) {});
  }

  bool Enabled(LogLevel level) const override {
    return level != LogLevel::kOff && logger_.should_log(ToSpdlog(level));
  }

  void Write(LogLevel level, absl::string_view message, LogFields fields) override {
    if (!Enabled(level)) return;
    try {
      const std::string record = Record(message, fields);
      logger_.log(ToSpdlog(level), spdlog::string_view_t(record.data(), record.size()));
    } catch (const std::exception&) {  // out of memory: lose the line, keep the chain of thought
    }
  }

 private:
  static spdlog::sink_ptr MakeSink(const LogOptions& options) {
    if (options.stream == nullptr) return std::make_shared<spdlog::sinks::stderr_sink_mt>();
    return std::make_shared<spdlog::sinks::ostream_sink_mt>(*options.stream);
  }

  std::string Record(absl::string_view message, LogFields fields) const {
    std::string out =
        json_ ? absl::StrCat("\"msg\":", JsonString(message, kMessageBytesMax))
              : absl::StrCat(
                    "\"", absl::StrReplaceAll(Escaped(message, kMessageBytesMax), {{"\"", "\\\""}}),
                    "\"");
    for (const LogField& field : fields) {
      if (json_) {
        absl::StrAppend(&out, ",", JsonString(field.key, 64), ":", FieldValue(field, true));
      } else {
        absl::StrAppend(&out, " ", Escaped(field.key, 64), "=", FieldValue(field, false));
      }
    }
    return out;
  }

  const bool json_;
  spdlog::logger logger_;
};

}  // namespace

std::unique_ptr<Log> NewLog(LogOptions options) {
  return std::make_unique<SpdLog>(std::move(options));
}

void AddLogSettings(SettingsTable* table, LogOptions* options) {
  table->Section("Log");
  table->Choice<LogLevel>("log_level", &options->level,
                          {{"debug", LogLevel::kDebug},
                           {"info", LogLevel::kInfo},
                           {"warning", LogLevel::kWarning},
                           {"error", LogLevel::kError},
                           {"off", LogLevel::kOff}},
                          "The least severe records that are written to stderr.");
  table->Choice<LogFormat>("log_format", &options->format,
                           {{"text", LogFormat::kText}, {"json", LogFormat::kJson}},
                           "One line a record: key=value for people, or JSON for machines.");
}

}  // namespace palimpsest
