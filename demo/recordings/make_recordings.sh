#!/usr/bin/env bash
# Makes the recordings here and the transcripts beside them: ./make_recordings.sh
# Needs espeak-ng, ffmpeg and python3. Start and end of each segment are those of the spoken parts.
set -euo pipefail
cd "$(dirname "$0")"

GAP=0.40 # seconds of silence between two parts
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

seconds() { ffprobe -v error -show_entries format=duration -of default=nokey=1:noprint_wrappers=1 "$1"; }

# record FILE LANGUAGE, with one part per line on the standard input: VOICE|SPEAKER|TEXT
record() {
    local file=$1 language=$2 voice speaker text part number=0
    : >"$WORK/list" && : >"$WORK/parts"
    while IFS='|' read -r voice speaker text; do
        number=$((number + 1)) part="$WORK/$number.wav"
        espeak-ng -v "${voice%:*}" -s "${voice#*:}" -w "$WORK/raw.wav" -- "$text"
        ffmpeg -nostdin -v error -y -i "$WORK/raw.wav" -ar 16000 -ac 1 -c:a pcm_s16le "$WORK/part.wav"
        ffmpeg -nostdin -v error -y -i "$WORK/part.wav" -af "apad=pad_dur=$GAP" -c:a pcm_s16le "$part"
        echo "file '$part'" >>"$WORK/list"
        printf '%s\t%s\t%s\t%s\n' "$(seconds "$WORK/part.wav")" "$(seconds "$part")" "$speaker" "$text" >>"$WORK/parts"
    done
    local codec
    case $file in
        *.wav) codec=(-c:a pcm_s16le) ;;
        *.mp3) codec=(-c:a libmp3lame -b:a 40k -write_xing 1) ;;
        *.m4a) codec=(-c:a aac -b:a 40k) ;;
    esac
    # No metadata and no encoder's version, so that the same tools make the same bytes.
    ffmpeg -nostdin -v error -y -f concat -safe 0 -i "$WORK/list" "${codec[@]}" \
        -map_metadata -1 -fflags +bitexact -flags:a +bitexact "$file"
    python3 - "$language" "$WORK/parts" >"$file.json" <<'PYTHON'
import json
import sys

language, parts = sys.argv[1:]
start, segments = 0.0, []
for line in open(parts, encoding="utf-8"):
    spoken, padded, speaker, text = line.rstrip("\n").split("\t")
    segments.append(
        {"start": round(start, 2), "end": round(start + float(spoken), 2), "speaker": speaker, "text": text}
    )
    start += float(padded)
transcript = {"language": language, "text": " ".join(s["text"] for s in segments), "segments": segments}
sys.stdout.buffer.write((json.dumps(transcript, ensure_ascii=False, indent=2) + "\n").encode())
PYTHON
    echo "$file $(seconds "$file") s"
}

record support-call.wav en <<'PARTS'
en-us+f3:165|Speaker 1|Thank you for calling Northwind support, this is Dana. How can I help?
en-gb+m3:160|Speaker 2|Hi. My invoice for March shows two charges for the same subscription.
en-us+f3:165|Speaker 1|I see the duplicate. I have refunded the second one, it takes three to five days.
en-gb+m3:160|Speaker 2|That is great, thanks.
PARTS

record standup-memo.m4a en <<'PARTS'
en-us+m7:170|Speaker 1|Stand-up notes for Tuesday. Yesterday I finished the loader for the call archive.
en-us+m7:170|Speaker 1|Today I am adding the nightly backfill, and I will review the schema change.
en-us+m7:170|Speaker 1|One blocker: I still need read access to the recordings bucket.
PARTS

record interview.mp3 en <<'PARTS'
en-gb+f2:160|Speaker 1|What made you move from weekly reports to a live dashboard?
en-us+m2:165|Speaker 2|Honestly, nobody opened the reports. By Friday the numbers were already old.
en-gb+f2:160|Speaker 1|And what changed for the team?
en-us+m2:165|Speaker 2|We stopped arguing about whose spreadsheet was right.
PARTS

record bestellung.mp3 de <<'PARTS'
de+f3:160|Speaker 1|Bäckerei Süßmann, schönen guten Tag. Was darf es sein?
de+m3:155|Speaker 2|Grüß Gott, ich möchte für Samstag zwölf Brötchen und einen Käsekuchen bestellen.
de+f3:160|Speaker 1|Sehr gern. Abholung um halb neun, das macht vierundzwanzig Euro fünfzig.
PARTS

record voicemail.wav en <<'PARTS'
en-gb+m5:160|Speaker 1|Hello, this is Marcus from the garage.
en-gb+m5:160|Speaker 1|Your car is ready. You can pick it up any time before six today.
PARTS
