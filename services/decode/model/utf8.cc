// SPDX-License-Identifier: Apache-2.0
#include "services/decode/model/utf8.h"

#include <unicode/unistr.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <array>

namespace palimpsest {
namespace {

constexpr int kAlphabetEnd = 0x144;  // one past the last character of the byte-level alphabet

constexpr bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct ByteAlphabet {
  std::array<char32_t, 256> characters{};
  std::array<int16_t, kAlphabetEnd> bytes{};
};

constexpr ByteAlphabet MakeByteAlphabet() {
  ByteAlphabet alphabet;
  for (int16_t& byte : alphabet.bytes) byte = -1;
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t character = StandsForItself(byte) ? static_cast<char32_t>(byte) : next++;
    alphabet.characters[byte] = character;
    alphabet.bytes[character] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr ByteAlphabet kByteAlphabet = MakeByteAlphabet();

// Bytes a lead byte announces, 0 when it is none.
int AnnouncedLength(uint8_t lead) {
  if (lead < 0x80) return 1;
  return U8_IS_LEAD(lead) ? U8_COUNT_TRAIL_BYTES(lead) + 1 : 0;
}

}  // namespace

bool IsUtf8(absl::string_view text) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
  for (size_t i = 0; i < text.size();) {
    UChar32 c;
    U8_NEXT(bytes, i, text.size(), c);
    if (c < 0) return false;
  }
  return true;
}

char32_t NextCodePoint(absl::string_view text, size_t* offset) {
  UChar32 c;
  U8_NEXT(reinterpret_cast<const uint8_t*>(text.data()), *offset, text.size(), c);
  return static_cast<char32_t>(c);
}

void AppendUtf8(char32_t code_point, std::string* out) {
  uint8_t bytes[U8_MAX_LENGTH];
  size_t size = 0;
  U8_APPEND_UNSAFE(bytes, size, static_cast<UChar32>(code_point));
  out->append(reinterpret_cast<const char*>(bytes), size);
}

std::string RepairUtf8(absl::string_view bytes) {
  std::string out;
  const icu::StringPiece piece(bytes.data(), static_cast<int32_t>(bytes.size()));
  icu::UnicodeString::fromUTF8(piece).toUTF8String(out);
  return out;
}

size_t CompleteUtf8Prefix(absl::string_view bytes) {
  const size_t tail_max = std::min<size_t>(bytes.size(), U8_MAX_LENGTH - 1);
  for (size_t tail = 1; tail <= tail_max; ++tail) {
    const size_t start = bytes.size() - tail;
    const auto lead = static_cast<uint8_t>(bytes[start]);
    if (U8_IS_TRAIL(lead)) continue;
    return AnnouncedLength(lead) > static_cast<int>(tail) ? start : bytes.size();
  }
  return bytes.size();
}

char32_t ByteToCharacter(uint8_t byte) { return kByteAlphabet.characters[byte]; }

int CharacterToByte(char32_t character) {
  return character < kAlphabetEnd ? kByteAlphabet.bytes[character] : -1;
}

}  // namespace palimpsest
