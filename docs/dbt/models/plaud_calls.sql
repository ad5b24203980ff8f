-- One row per recording that was transcribed, with the speaker who talks most.
with ranked as (
    select
        transcription_id,
        speaker,
        share,
        row_number() over (partition by transcription_id order by seconds desc, speaker) as place,
        sum(words) over (partition by transcription_id) as words
    from {{ ref('plaud_speakers') }}
)

select
    transcripts.transcription_id,
    transcripts.audio_uri,
    transcripts.recording_date,
    transcripts.recording_started_at,
    transcripts.language,
    transcripts.duration_seconds,
    transcripts.speaker_count,
    ranked.speaker as main_speaker,
    ranked.share as main_share,
    ranked.words,
    transcripts.metadata
from {{ source('plaud', 'plaud_transcripts') }} as transcripts
left join ranked
    on transcripts.transcription_id = ranked.transcription_id and ranked.place = 1
where transcripts.status = 'completed'
